"""The health history against a real database: rows a minute, rows at changes, away and back, bounded, swept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from command import health_history
from command.health_history import HealthHistory
from command.store.camera_health import health_changes, health_points
from command.store.pool import Pool, open_pool
from ingest.clock import ManualClock
from ingest.health import CameraState, Fault, StreamHealth

LIVE, REFUSED = CameraState.LIVE, CameraState.REFUSED


@pytest.fixture
async def pool(postgres: str) -> AsyncIterator[Pool]:
    async with open_pool(postgres, max_size=2) as pool:
        yield pool


class Bench:
    """Two streams of one camera that send 25 and 12 frames a second while they are live."""

    def __init__(self, pool: Pool, conninfo: str) -> None:
        self.clock = ManualClock()
        self.pool = pool
        self.conninfo = conninfo
        self.frames = {"main": 0, "sub": 0}
        self.states = {"main": LIVE, "sub": LIVE}
        self.faults: tuple[Fault, ...] = ()
        self.history = HealthHistory(pool, self.health, self.clock)

    def health(self) -> list[StreamHealth]:
        return [
            StreamHealth(
                camera_id="c-1",
                stream=stream,
                state=state,
                since=self.clock.now(),
                reason_code=None if state is LIVE else "camera.refused",
                reason_facts={} if state is LIVE else {"host": "10.0.0.1", "port": "554", "why": "refused"},
                faults=self.faults if stream == "main" else (),
                fps=25.0 if stream == "main" else 12.0,
                jitter_ms=3.0,
                frames=self.frames[stream],
                lost_packets=self.frames[stream] // 100,
            )
            for stream, state in self.states.items()
        ]

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1.0)
            for stream, state in self.states.items():
                self.frames[stream] += (25 if stream == "main" else 12) * (state is LIVE)
            if self.history.look():
                await self.history.store()

    def rows(self, query: str = "SELECT * FROM camera_health ORDER BY stream, at") -> list[Any]:
        with psycopg.connect(self.conninfo, row_factory=namedtuple_row) as conn:
            return conn.execute(query.encode()).fetchall()


@pytest.fixture
def bench(pool: Pool, postgres: str) -> Bench:
    return Bench(pool, postgres)


async def test_a_row_a_minute_and_one_at_each_change(bench: Bench) -> None:
    await bench.run(90)
    bench.states["main"] = REFUSED
    await bench.run(15)
    bench.states["main"] = LIVE
    bench.faults = (Fault(code="health.clock_off", facts={"offset_s": "+3.0"}, since=bench.clock.now()),)
    await bench.run(136)
    main = [row for row in bench.rows() if row.stream == "main"]
    assert [(row.changed, row.state, row.span_s is None) for row in main] == [
        (True, "live", True),  # first seen
        (False, "live", False),
        (True, "refused", True),
        (True, "live", True),
        (False, "live", False),
        (False, "live", False),
        (False, "live", False),
    ]
    assert main[2].reason_code == "camera.refused" and main[2].reason_facts["port"] == "554"
    assert main[3].faults == ["health.clock_off"]
    minutes = [row for row in main if row.span_s is not None]
    assert sum(row.frames for row in minutes) == 25 * (239 - 15)
    assert [round(row.live_s) for row in minutes] == [59, 45, 60, 60]
    assert sum(row.span_s for row in minutes) == 239
    sub = [row for row in bench.rows() if row.stream == "sub"]
    assert len(sub) == 5 and sub[-1].fps == 12 and sub[-1].frames == 12 * 60


async def test_points_and_changes_are_read_by_time(bench: Bench) -> None:
    begin = bench.clock.now()
    await bench.run(300)
    bench.states["main"] = REFUSED
    await bench.run(300)
    async with bench.pool.connection() as conn:
        points = await health_points(conn, "c-1", begin, bench.clock.now() + timedelta(seconds=1), 300)
        changes, left_off = await health_changes(conn, "c-1", begin, bench.clock.now())
        assert await health_points(conn, "c-2", begin, bench.clock.now(), 60) == []
    main = [point for point in points if point["stream"] == "main"]
    assert [round(point["live_share"], 2) for point in main] == [1.0, 0.2, 0.0]
    assert sum(point["frames"] for point in main) == 25 * 299
    assert [(row["stream"], row["state"]) for row in changes] == [
        ("main", "live"),
        ("sub", "live"),
        ("main", "refused"),
    ]
    assert not left_off


async def test_a_worker_that_counts_anew_and_a_stream_that_goes(bench: Bench) -> None:
    await bench.run(61)
    bench.frames = {"main": 0, "sub": 0}
    del bench.states["sub"]
    await bench.run(120)
    main = [row for row in bench.rows() if row.stream == "main" and row.span_s is not None]
    assert all(row.frames >= 0 for row in main)
    assert len([row for row in bench.rows() if row.stream == "sub"]) == 2


async def test_a_flapping_camera_fills_nothing(bench: Bench) -> None:
    for _ in range(120):
        bench.states["main"] = REFUSED if bench.states["main"] is LIVE else LIVE
        await bench.run(1)
    assert len([row for row in bench.rows() if row.stream == "main"]) <= 2 * (health_history.MOST_CHANGES + 1)
    assert bench.history.changes_left_out > 0


async def test_the_database_is_away_for_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows wait; above the bound the oldest go. Stored twice they count once."""

    async def away(*_: object) -> None:
        raise psycopg.OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(health_history, "store_health", away)
        for _ in range(180):
            bench.clock.advance(1.0)
            if bench.history.look():
                with pytest.raises(psycopg.OperationalError):
                    await bench.history.store()
    assert bench.history.waiting == 8
    waiting = list(bench.history._waiting)
    await bench.history.store()
    assert bench.history.waiting == 0
    bench.history._waiting.extend(waiting)
    await bench.history.store()
    assert len(bench.rows()) == 8
    monkeypatch.setattr(health_history, "MOST_WAITING", 5)
    for _ in range(300):
        bench.clock.advance(1.0)
        bench.history.look()
    assert (bench.history.waiting, bench.history.dropped_rows) == (5, 5)


async def test_old_rows_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("command.store.camera_health._SWEEP_ROWS", 3)
    await bench.run(600)
    bench.clock.advance(89 * 86_400)
    await bench.run(300)
    before = len(bench.rows())
    await bench.history.sweep()
    assert len(bench.rows()) == before
    bench.clock.advance(86_400)
    await bench.history.sweep()
    left = bench.rows()
    assert 0 < len(left) < before
    assert min(row.at for row in left) >= bench.clock.now() - timedelta(days=90)
