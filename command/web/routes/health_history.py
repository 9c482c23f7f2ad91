"""How a camera was: figures in steps of time, and every change of its state, for the last 90 days."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, Field

from command.store import queries
from command.store.camera_health import health_changes, health_points
from command.web.reach import Connection, Lang, State
from command.web.rights import right
from command.web.shapes import Shape
from ingest.errors import GridwatchError, sentence

router = APIRouter(prefix="/api/v1/cameras", tags=["cameras"])

MOST_POINTS = 720  # a stream
LONGEST = timedelta(days=92)
_ROW_S = 60
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)


class HealthPoint(Shape):
    """One step of a stream; counts are of that step, rates its means. Null: unknown or not live."""

    at: datetime = Field(description="start of the step")
    live_share: float | None = Field(description="0..1: the part of the step in which the stream was live")
    fps: float | None
    bitrate_bps: float | None
    gop_s: float | None
    jitter_ms: float | None = Field(description="the step's worst minute")
    clock_offset_s: float | None = Field(description="of the camera's clock against the server's, the last one")
    frames: int | None
    lost_packets: int | None
    gaps: int | None
    reconnects: int | None
    dropped_units: int | None


class HealthChange(Shape):
    """A new state, reason or fault of a stream; it holds until the next one."""

    stream: str
    at: datetime
    state: str
    reason_code: str | None
    reason: str | None = Field(default=None, description="the reason in the caller's language")
    faults: list[str] = Field(description="codes of what else is wrong")


class StreamHistory(Shape):
    """One stream's steps, oldest first; steps in which nothing was pulled are left out."""

    stream: str
    points: list[HealthPoint]


class CameraHistory(Shape):
    """A camera's health between two moments."""

    camera_id: str
    since: datetime
    until: datetime
    step_s: int
    streams: list[StreamHistory]
    changes: list[HealthChange] = Field(description="oldest first, at most 1000")
    changes_left_off: bool = Field(description="there were more changes; the oldest are left out")


@router.get("/{camera_id}/health", dependencies=[right("cameras.read")])
async def read_health(
    camera_id: str,
    conn: Connection,
    state: State,
    lang: Lang,
    since: Annotated[AwareDatetime | None, Query(alias="from", description="default: a day before `to`")] = None,
    until: Annotated[AwareDatetime | None, Query(alias="to", description="default: now")] = None,
) -> CameraHistory:
    """How a camera was between `from` (inclusive) and `to` (exclusive): figures in steps of at least a minute, as many
    as fit into 720, and every change of state, reason or faults. Kept for 90 days."""
    until = until or state.clock.now()
    since = since or max(until, _FIRST) - timedelta(days=1)
    if since < _FIRST or not timedelta(0) < until - since <= LONGEST:
        raise GridwatchError("web.bad_span", since=since.isoformat(), until=until.isoformat(), days=LONGEST.days)
    if await queries.camera(conn, camera_id) is None:
        raise GridwatchError("web.unknown_camera", camera=camera_id[:100])
    step_s = max(1, math.ceil((until - since).total_seconds() / MOST_POINTS / _ROW_S)) * _ROW_S
    streams: dict[str, list[HealthPoint]] = {}
    for row in await health_points(conn, camera_id, since, until, step_s):
        streams.setdefault(row["stream"], []).append(HealthPoint.model_validate(row))
    changes, left_off = await health_changes(conn, camera_id, since, until)
    return CameraHistory(
        camera_id=camera_id,
        since=since,
        until=until,
        step_s=step_s,
        streams=[StreamHistory(stream=stream, points=points) for stream, points in streams.items()],
        changes=[HealthChange(**row, reason=_reason(camera_id, row, lang)) for row in changes],
        changes_left_off=left_off,
    )


def _reason(camera_id: str, row: dict[str, object], lang: str) -> str | None:
    code, facts = row["reason_code"], row["reason_facts"]
    if not isinstance(code, str):
        return None
    known = facts if isinstance(facts, dict) else {}
    return sentence(code, lang, **{"camera": camera_id, "stream": row["stream"], **known})
