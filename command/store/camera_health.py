"""The health history of streams in the database: written in one COPY, read by camera and time, swept by age."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from command.store.rows import Row

MOST_CHANGES = 1000  # in one answer
_SWEEP_ROWS = 20_000

Conn = AsyncConnection[Any]


class HealthRow(NamedTuple):
    """One row of `camera_health`; the fields are its columns. Counts are null in a row that only tells a change."""

    camera_id: str
    stream: str
    at: datetime
    changed: bool
    state: str
    reason_code: str | None
    reason_facts: dict[str, str] | None
    faults: list[str]
    fps: float | None = None
    bitrate_bps: float | None = None
    gop_s: float | None = None
    jitter_ms: float | None = None
    clock_offset_s: float | None = None
    span_s: float | None = None
    live_s: float | None = None
    frames: int | None = None
    lost_packets: int | None = None
    gaps: int | None = None
    reconnects: int | None = None
    dropped_units: int | None = None


_COLUMNS = ", ".join(HealthRow._fields)
_STAGE = "CREATE TEMP TABLE IF NOT EXISTS camera_health_stage (LIKE camera_health) ON COMMIT DELETE ROWS"
_COPY = f"COPY camera_health_stage ({_COLUMNS}) FROM STDIN"
_INSERT = f"""
    INSERT INTO camera_health ({_COLUMNS}) SELECT {_COLUMNS} FROM camera_health_stage
    ORDER BY at, camera_id, stream ON CONFLICT DO NOTHING
"""  # noqa: S608 - constants of this module


async def store_health(conn: Conn, rows: Sequence[HealthRow]) -> None:
    """Write rows inside the caller's transaction; rows that are there already stay as they are."""
    await conn.execute(_STAGE.encode())
    async with conn.cursor() as cursor:
        async with cursor.copy(_COPY.encode()) as copy:
            for row in rows:
                facts = Jsonb(row.reason_facts) if row.reason_facts is not None else None
                await copy.write_row(row._replace(reason_facts=facts))  # type: ignore[arg-type]
        await cursor.execute(_INSERT.encode())


async def sweep_health(conn: Conn, before: datetime) -> bool:
    """Delete some of the rows older than `before`; True when there may be more."""
    gone = await conn.execute(
        "DELETE FROM camera_health WHERE ctid = ANY(ARRAY(SELECT ctid FROM camera_health WHERE at < %s LIMIT %s))",
        (before, _SWEEP_ROWS),
    )
    return gone.rowcount >= _SWEEP_ROWS


async def health_points(conn: Conn, camera_id: str, since: datetime, until: datetime, step_s: float) -> list[Row]:
    """A camera's streams in steps of time, by stream and time: means of rates, sums of counts, the worst jitter.

    `live_share` is the part of the watched time in which the stream was live; steps without any row are left out.
    """
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT stream, date_bin(%(step)s, at, %(since)s) AS at, avg(fps) AS fps, avg(bitrate_bps) AS bitrate_bps,
                   avg(gop_s) AS gop_s, max(jitter_ms) AS jitter_ms,
                   (array_agg(clock_offset_s ORDER BY at DESC))[1] AS clock_offset_s,
                   least(1, sum(live_s) / nullif(sum(span_s), 0)) AS live_share, sum(frames) AS frames,
                   sum(lost_packets) AS lost_packets, sum(gaps) AS gaps, sum(reconnects) AS reconnects,
                   sum(dropped_units) AS dropped_units
            FROM camera_health
            WHERE camera_id = %(camera)s AND at >= %(since)s AND at < %(until)s AND span_s IS NOT NULL
            GROUP BY 1, 2 ORDER BY 1, 2
            """,
            {"camera": camera_id, "since": since, "until": until, "step": timedelta(seconds=step_s)},
        )
        return await cursor.fetchall()


async def health_changes(conn: Conn, camera_id: str, since: datetime, until: datetime) -> tuple[list[Row], bool]:
    """(changes of state, reason or faults, oldest first; whether older ones were left out)."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT stream, at, state, reason_code, reason_facts, faults FROM camera_health
            WHERE camera_id = %(camera)s AND at >= %(since)s AND at < %(until)s AND changed
            ORDER BY at DESC, stream DESC LIMIT %(most)s
            """,
            {"camera": camera_id, "since": since, "until": until, "most": MOST_CHANGES + 1},
        )
        found = await cursor.fetchall()
    return found[:MOST_CHANGES][::-1], len(found) > MOST_CHANGES
