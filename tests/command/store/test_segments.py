"""Facts of the recorder in the database: from the spool, twice, out of a crash, and back for the checker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from command.store.segments import SegmentDrain, SegmentTable
from ingest.recording import SPOOL_KIND, Gap, SegmentClosed, SegmentKey, SegmentsRemoved
from ingest.spool import Spool

DAY = "2026-01-01"
START_US = 1_767_225_600_000_001


def closed(number: int, **changes: object) -> SegmentClosed:
    start_us = START_US + number * 60_000_000
    fact = SegmentClosed(
        camera_id="c_1", stream="main", start_us=start_us, end_us=start_us + 60_000_000, bytes=22_500_000,
        codec="h264", width=1920, height=1080, frames=1500, gaps=0, sha256=f"{number:064x}",
        folder="/disk/1", path=f"c_1/{DAY}/{number}.mp4",
    )  # fmt: skip
    return fact.model_copy(update=changes)


async def test_facts_reach_the_tables_and_repeat_harmlessly(postgres: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "worker-1.spool", reserve_bytes=0)
    gone = SegmentKey(camera_id="c_1", stream="main", start_us=closed(0).start_us)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    gap = Gap(camera_id="c_1", stream="main", started_at=at, ended_at=at, reason="disk_full", dropped_units=7)
    facts = [closed(0), closed(1), gap, SegmentsRemoved(reason="age", segments=(gone,)), closed(2)]
    drain = SegmentDrain(postgres, tmp_path)
    running = asyncio.create_task(drain.run())
    try:
        with psycopg.connect(postgres, autocommit=True) as conn:
            for turn in range(2):  # the second time as after a crash between commit and removal
                spool.put_many([(SPOOL_KIND, fact.model_dump_json()) for fact in facts] + [("event", "{}")])
                async with asyncio.timeout(20):
                    while drain.stored < len(facts) * (turn + 1):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                table = SegmentTable(conn)
                rows = table.rows("/disk/1", "c_1", DAY)
                assert rows == {fact.path: fact for fact in (closed(1), closed(2))}
                assert conn.execute("SELECT dropped_units FROM recording_gaps").fetchall() == [(7,)]
            assert [row.kind for row in spool.read(10)] == ["event", "event"], "other kinds are left to their reader"
            assert table.days("/disk/1") == {("c_1", DAY)} and table.days("/disk/2") == set()
            table.put([closed(2, bytes=5, sha256="f" * 64)])
            table.delete([closed(1)])
            assert table.rows("/disk/1", "c_1", DAY)[closed(2).path].bytes == 5
            assert len(table.rows("/disk/1", "c_1", DAY)) == 1
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        spool.close()
