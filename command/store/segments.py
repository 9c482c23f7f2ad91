"""The index of recordings: facts of the recorder from the spools into `segments` and `recording_gaps`, and back.

Facts are stored in the order of their spool, one transaction a batch; storing them again changes nothing. The rows of
deleted segments are deleted. A fact that cannot be read is logged and let go: the checker finds what it was about.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection
from pydantic import ValidationError

from command.store.pool import bounded
from ingest.access_unit import StreamName
from ingest.errors import GridwatchError
from ingest.recording.facts import SPOOL_KIND, Gap, IndexFact, SegmentClosed, SegmentKey, SegmentsRemoved, index_fact
from ingest.recording.layout import from_us, to_us
from ingest.spool import SUFFIX, Spool

log = logging.getLogger(__name__)

BATCH_ROWS = 2000
_POLL_S = 1.0
_WAIT_S = 2.0

UPSERT = """
INSERT INTO segments AS s (camera_id, stream, started_at, ended_at, bytes, codec, width, height, frames, gaps, sha256,
    folder, path)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (camera_id, stream, started_at) DO UPDATE SET
    ended_at = EXCLUDED.ended_at, bytes = EXCLUDED.bytes, codec = EXCLUDED.codec, width = EXCLUDED.width,
    height = EXCLUDED.height, frames = EXCLUDED.frames, gaps = EXCLUDED.gaps, sha256 = EXCLUDED.sha256,
    folder = EXCLUDED.folder, path = EXCLUDED.path
WHERE s.sha256 <> EXCLUDED.sha256 OR s.folder <> EXCLUDED.folder
"""
DELETE = "DELETE FROM segments WHERE camera_id = %s AND stream = %s AND started_at = %s"
_GAP = """
INSERT INTO recording_gaps (camera_id, stream, started_at, ended_at, reason, dropped_units)
VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


def upsert_values(fact: SegmentClosed) -> tuple[Any, ...]:
    """The parameters of `UPSERT`."""
    return (
        fact.camera_id,
        fact.stream,
        from_us(fact.start_us),
        from_us(fact.end_us),
        fact.bytes,
        fact.codec,
        fact.width,
        fact.height,
        fact.frames,
        fact.gaps,
        bytes.fromhex(fact.sha256),
        fact.folder,
        fact.path,
    )


def delete_values(key: SegmentKey) -> tuple[Any, ...]:
    """The parameters of `DELETE`."""
    return key.camera_id, key.stream, from_us(key.start_us)


async def store_facts(conn: AsyncConnection[Any], facts: Iterable[IndexFact]) -> None:
    """Apply facts in order, in the caller's transaction."""
    closed: dict[tuple[str, str, int], SegmentClosed] = {}
    removed: dict[tuple[str, str, int], SegmentKey] = {}
    gaps: list[Gap] = []
    for fact in facts:
        if isinstance(fact, SegmentClosed):
            key = fact.camera_id, fact.stream, fact.start_us
            closed[key] = fact
            removed.pop(key, None)
        elif isinstance(fact, SegmentsRemoved):
            for gone in fact.segments:
                key = gone.camera_id, gone.stream, gone.start_us
                closed.pop(key, None)
                removed[key] = gone
        else:
            gaps.append(fact)
    async with conn.cursor() as cursor:
        if closed:
            await cursor.executemany(UPSERT, [upsert_values(fact) for fact in closed.values()])
        if removed:
            await cursor.executemany(DELETE, [delete_values(key) for key in removed.values()])
        if gaps:
            await cursor.executemany(
                _GAP, [(g.camera_id, g.stream, g.started_at, g.ended_at, g.reason, g.dropped_units) for g in gaps]
            )


class SegmentDrain:
    """Drains kind "segment" of every spool in `folder`: `await run()` until cancelled. The one reader of that kind."""

    def __init__(self, conninfo: str, folder: Path) -> None:
        self.stored = 0
        self.unreadable = 0
        self.last_error: str | None = None
        self._conninfo = bounded(conninfo, 15, "gridwatch segments")
        self._folder = folder
        self._spools: dict[Path, Spool] = {}

    async def run(self) -> None:
        """For ever; the database may be away for as long as it likes."""
        conn: AsyncConnection[Any] | None = None
        try:
            while True:
                try:
                    batch = await asyncio.to_thread(self._read)
                    if not batch:
                        await asyncio.sleep(_POLL_S)
                        continue
                    if conn is None or conn.closed:
                        conn = await AsyncConnection.connect(self._conninfo, autocommit=True)
                    async with conn.transaction():
                        for _, facts, _ in batch:
                            await store_facts(conn, facts)
                    await asyncio.to_thread(self._forget, batch)
                    self.last_error = None
                except (psycopg.Error, OSError, sqlite3.Error, GridwatchError) as error:
                    if self.last_error is None:
                        log.warning("segments wait for the database", extra={"why": str(error).strip()})
                    self.last_error = str(error).strip()
                    if conn is not None:
                        await conn.close()
                        conn = None
                    await asyncio.sleep(_WAIT_S)
        finally:
            if conn is not None:
                await conn.close()
            for spool in self._spools.values():
                spool.close()
            self._spools.clear()

    def _read(self) -> list[tuple[Path, list[IndexFact], int]]:
        batch: list[tuple[Path, list[IndexFact], int]] = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            spool = self._spools.get(path) or self._spools.setdefault(path, Spool(path))
            rows = spool.read(BATCH_ROWS, kind=SPOOL_KIND)
            facts: list[IndexFact] = []
            for row in rows:
                try:
                    facts.append(index_fact.validate_json(row.body))
                except ValidationError as error:
                    self.unreadable += 1
                    log.error("a segment fact cannot be read", extra={"spool": path.name, "why": str(error)[:500]})
            if rows:
                batch.append((path, facts, rows[-1].seq))
        return batch

    def _forget(self, batch: Sequence[tuple[Path, list[IndexFact], int]]) -> None:
        for path, facts, through in batch:
            self._spools[path].remove_through(through, SPOOL_KIND)
            self.stored += len(facts)


class SegmentTable:
    """The index as the checker asks for it (`ingest.recording.check.Index`); one connection, blocking."""

    def __init__(self, conn: Connection[Any]) -> None:
        self._conn = conn

    def rows(self, folder: str, camera_id: str, day: str) -> dict[str, SegmentClosed]:
        """Path -> what the index says, of a camera's day in a recording folder."""
        found = self._conn.execute(
            "SELECT stream, started_at, ended_at, bytes, codec, width, height, frames, gaps, sha256, path FROM segments"
            " WHERE camera_id = %s AND started_at BETWEEN %s::date - interval '2 days' AND %s::date + interval '3 days'"
            " AND folder = %s AND path LIKE %s",
            (camera_id, day, day, folder, f"{camera_id.replace('_', chr(92) + '_')}/{day}/%"),
        )
        return {
            row[10]: SegmentClosed(
                camera_id=camera_id,
                stream=_stream(row[0]),
                start_us=to_us(row[1]),
                end_us=to_us(row[2]),
                bytes=row[3],
                codec=row[4],
                width=row[5],
                height=row[6],
                frames=row[7],
                gaps=row[8],
                sha256=bytes(row[9]).hex(),
                folder=folder,
                path=row[10],
            )
            for row in found
        }

    def days(self, folder: str) -> set[tuple[str, str]]:
        """(camera, day) of every row of a folder: also those whose files are gone altogether."""
        found = self._conn.execute(
            "SELECT DISTINCT camera_id, split_part(path, '/', 2) FROM segments WHERE folder = %s", (folder,)
        )
        return {(row[0], row[1]) for row in found}

    def put(self, facts: Sequence[SegmentClosed]) -> None:
        """Say so from now on."""
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.executemany(UPSERT, [upsert_values(fact) for fact in facts])

    def delete(self, keys: Sequence[SegmentKey]) -> None:
        """Forget these."""
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.executemany(DELETE, [delete_values(key) for key in keys])


def _stream(name: str) -> StreamName:
    return "sub" if name == "sub" else "main"
