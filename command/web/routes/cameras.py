"""Cameras: where they are, how they are, their last keyframe picture."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from email.utils import format_datetime
from typing import Annotated

from fastapi import APIRouter, Header, Response
from starlette.datastructures import Headers

from command.store import queries
from command.web.camera_health import by_camera, camera_states, fault_sentences, last_error, reason
from command.web.reach import Connection, Lang, State
from command.web.rights import right
from command.web.shapes import CameraDetail, CameraHealth, CameraShape, Page, StreamShape
from ingest.errors import GridwatchError
from ingest.health import StreamHealth

router = APIRouter(prefix="/api/v1/cameras", tags=["cameras"])

_JPEG = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}


@router.get("", dependencies=[right("cameras.read")])
async def list_cameras(conn: Connection, state: State) -> Page[CameraShape]:
    """All cameras with their states; those that are no longer configured have `removed`."""
    states = camera_states(state.health())
    cameras = [CameraShape.model_validate(row) for row in await queries.cameras(conn, removed=True)]
    for camera in cameras:
        if camera.camera_id in states:
            camera.health = CameraHealth.model_validate(states[camera.camera_id])
    return Page(items=cameras)


@router.get("/{camera_id}", dependencies=[right("cameras.read")])
async def read_camera(camera_id: str, conn: Connection, state: State, lang: Lang) -> CameraDetail:
    """One camera with the figures of each of its streams."""
    row = await queries.camera(conn, camera_id)
    if row is None:
        raise GridwatchError("web.unknown_camera", camera=camera_id[:100])
    health = [stream for stream in state.health() if stream.camera_id == camera_id]
    found = camera_states(health).get(camera_id)
    return CameraDetail(
        **row,
        health=None if found is None else CameraHealth.model_validate(found),
        streams=_streams(by_camera(health).get(camera_id, []), lang),
        picture_taken_at=await asyncio.to_thread(state.pictures.taken_at, camera_id),
    )


def _streams(streams: Sequence[StreamHealth], lang: str) -> list[StreamShape]:
    return [
        StreamShape(
            **stream.model_dump(),
            reason=reason(stream, lang),
            last_error=last_error(stream, lang),
            fault_sentences=fault_sentences(stream, lang),
        )
        for stream in streams
    ]


@router.get(
    "/{camera_id}/picture",
    response_class=Response,
    responses={200: _JPEG, 204: {"description": "none yet"}, 304: {"description": "unchanged"}},
    dependencies=[right("cameras.watch")],
)
async def read_picture(camera_id: str, state: State, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The camera's last decoded keyframe, dated by `X-Taken-At`. Asked with `If-None-Match`: 304 while it stands."""
    taken_at = await asyncio.to_thread(state.pictures.taken_at, camera_id)
    if taken_at is not None and matches(if_none_match, _tag(taken_at.timestamp())):
        return Response(status_code=304, headers={"etag": _tag(taken_at.timestamp()), "cache-control": "no-cache"})
    found = await asyncio.to_thread(state.pictures.get, camera_id)
    if found is None:
        if all(stream.camera_id != camera_id for stream in state.health()):
            raise GridwatchError("web.unknown_camera", camera=camera_id[:100])
        return Response(status_code=204)
    jpeg, taken_at = found
    headers = Headers(
        {
            "etag": _tag(taken_at.timestamp()),
            "cache-control": "no-cache",
            "last-modified": format_datetime(taken_at, usegmt=True),
            "x-taken-at": taken_at.isoformat(),
        }
    )
    return Response(jpeg, headers=headers, media_type="image/jpeg")


def _tag(taken_at_s: float) -> str:
    return f'"{round(taken_at_s * 1e6):x}"'


def matches(if_none_match: str | None, tag: str) -> bool:
    """Whether a conditional request already has `tag` (weak comparison, RFC 9110 13.1.2)."""
    if if_none_match is None:
        return False
    tags = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return "*" in tags or tag in tags
