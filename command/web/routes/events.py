"""Events and their evidence."""

from __future__ import annotations

import asyncio
from pathlib import Path as FilePath
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import AwareDatetime

from command.store import queries
from command.web.reach import Connection, State
from command.web.rights import right
from command.web.routes.cameras import matches
from command.web.shapes import EventShape, Page
from ingest.errors import GridwatchError

router = APIRouter(prefix="/api/v1", tags=["events"])

Limit = Annotated[int, Query(ge=1, le=500, description="at most this many")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next` of the page before")]
_JPEG = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/events", dependencies=[right("events.read")])
async def list_events(
    conn: Connection,
    camera_id: Annotated[str | None, Query(max_length=200)] = None,
    village: Annotated[str | None, Query(max_length=200)] = None,
    grid_id: Annotated[str | None, Query(max_length=200)] = None,
    code: Annotated[str | None, Query(pattern=r"^\d+\.\d+$")] = None,
    state: Literal["opened", "updated", "closed"] | None = None,
    since: Annotated[AwareDatetime | None, Query(description="began at or after")] = None,
    until: Annotated[AwareDatetime | None, Query(description="began before")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[EventShape]:
    """Events by their beginning, newest first."""
    chosen = queries.EventFilter(camera_id, village, grid_id, code, state, since, until)
    page = await queries.events(conn, chosen, limit=limit, cursor=cursor)
    return Page(items=[EventShape.model_validate(row) for row in page.items], next=page.next)


@router.get("/events/{event_id}", dependencies=[right("events.read")])
async def read_event(event_id: UUID, conn: Connection) -> EventShape:
    """One event as it stands."""
    row = await queries.event(conn, event_id)
    if row is None:
        raise GridwatchError("web.unknown_event", event=event_id)
    return EventShape.model_validate(row)


@router.get(
    "/evidence/{sha256}",
    response_class=Response,
    responses={200: _JPEG, 304: {"description": "unchanged"}},
    dependencies=[right("evidence.read")],
)
async def read_evidence(
    sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")],
    state: State,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A picture by its checksum: never changes, so it may be kept for ever."""
    tag = f'"{sha256}"'
    headers = {"etag": tag, "cache-control": "private, max-age=31536000, immutable"}
    if matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    content = await asyncio.to_thread(_read, state.evidence.path(sha256))
    if content is None:
        raise GridwatchError("web.unknown_evidence", sha256=sha256)
    return Response(content, headers=headers, media_type="image/jpeg")


def _read(path: FilePath) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
