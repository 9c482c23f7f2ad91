"""Writes how each stream is into the database: a row a minute and one at each change.

Life cycle: the API process makes one and runs it beside the server. It looks at the workers' reports once a second, in
memory, and stores once a minute in one COPY. While the database is away rows wait in memory, the oldest are dropped
above a bound and counted; a death of the process costs the last minute. That is enough for figures: what must not be
lost (a loss that lasts) is an event, and goes through the worker's spool. Once an hour rows older than `keep` go.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout

from command.store.camera_health import HealthRow, store_health, sweep_health
from command.store.pool import Pool
from ingest.clock import Clock, SystemClock
from ingest.health import StreamHealth

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
ROW_EVERY_S = 60.0
SWEEP_EVERY_S = 3600.0
KEEP = timedelta(days=90)
MOST_WAITING = 50_000  # rows, about 20 MB; 128 cameras with two streams fill it in three hours
MOST_CHANGES = 10  # rows a stream and minute; a flapping camera's further changes are left out
_COUNTS = ("frames", "lost_packets", "gaps", "reconnects", "dropped_units")
_MOST = 2**31 - 1  # a column's integer

_Key = tuple[str, str]


@dataclass
class _Stream:
    """What is remembered of one stream since its last row of the minute."""

    shown: tuple[str, str | None, tuple[str, ...]] | None  # state, reason, faults of the last row
    counts: dict[str, int]
    since_s: float
    seen_s: float
    live_s: float = 0.0
    changes: int = 0


class HealthHistory:
    """`health` answers at once from memory. `look` is for the caller's loop or a test; `run` does all."""

    def __init__(
        self,
        pool: Pool,
        health: Callable[[], Sequence[StreamHealth]],
        clock: Clock | None = None,
        keep: timedelta = KEEP,
    ) -> None:
        self.dropped_rows = 0
        self.changes_left_out = 0
        self._pool = pool
        self._health = health
        self._clock = clock or SystemClock()
        self._keep = keep
        self._streams: dict[_Key, _Stream] = {}
        self._waiting: deque[HealthRow] = deque()
        self._row_s = self._clock.monotonic_s() + ROW_EVERY_S
        self._sweep_s = self._clock.monotonic_s() + ROW_EVERY_S

    @property
    def waiting(self) -> int:
        """Rows that are not in the database yet."""
        return len(self._waiting)

    async def run(self) -> None:
        """Look, store and sweep until cancelled."""
        storing: asyncio.Task[None] | None = None
        try:
            while True:
                if self.look() and (storing is None or storing.done()):
                    storing = asyncio.create_task(self._store_and_sweep(), name="health-history")
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            if storing is not None:
                storing.cancel()

    def look(self) -> bool:
        """Take in how the streams are now; True once a minute, when rows are to be stored."""
        now_s, at = self._clock.monotonic_s(), self._clock.now()
        is_minute = now_s >= self._row_s
        if is_minute:
            self._row_s = max(self._row_s + ROW_EVERY_S, now_s + ROW_EVERY_S / 2)
        found = self._health()
        for health in found:
            key = health.camera_id, health.stream
            known = self._streams.get(key)
            if known is None:
                known = self._streams[key] = _Stream(None, _counts(health), now_s, now_s)
            if health.is_live:
                known.live_s += now_s - known.seen_s
            known.seen_s = now_s
            shown = health.state.value, health.reason_code, tuple(fault.code for fault in health.faults)
            changed = shown != known.shown
            if changed and not is_minute:
                known.changes += 1
                if known.changes > MOST_CHANGES:
                    self.changes_left_out += 1
                    continue
            if not (changed or is_minute):
                continue
            known.shown = shown
            row = HealthRow(
                camera_id=health.camera_id,
                stream=health.stream,
                at=at,
                changed=changed,
                state=health.state.value,
                reason_code=health.reason_code,
                reason_facts=health.reason_facts if changed else None,
                faults=list(shown[2]),
            )
            self._wait(self._minute(row, health, known, now_s) if is_minute else row)
        gone = self._streams.keys() - {(health.camera_id, health.stream) for health in found}
        for key in gone:
            del self._streams[key]
        return is_minute

    def _minute(self, row: HealthRow, health: StreamHealth, known: _Stream, now_s: float) -> HealthRow:
        counts = _counts(health)
        # A worker that was started again counts from 0.
        grown = {name: count - known.counts[name] for name, count in counts.items()}
        counted: dict[str, Any] = {name: min(counts[name] if more < 0 else more, _MOST) for name, more in grown.items()}
        done = row._replace(
            fps=health.fps,
            bitrate_bps=health.bitrate_bps,
            gop_s=health.gop_s,
            jitter_ms=health.jitter_ms,
            clock_offset_s=health.clock_offset_s,
            span_s=now_s - known.since_s,
            live_s=known.live_s,
            **counted,
        )
        known.counts, known.since_s, known.live_s, known.changes = counts, now_s, 0.0, 0
        return done

    def _wait(self, row: HealthRow) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.dropped_rows += 1
        self._waiting.append(row)

    async def _store_and_sweep(self) -> None:
        try:
            await self.store()
            if self._clock.monotonic_s() >= self._sweep_s:
                await self.sweep()
                self._sweep_s = self._clock.monotonic_s() + SWEEP_EVERY_S
        except (psycopg.Error, PoolTimeout, OSError) as error:
            facts = {"waiting": len(self._waiting), "why": str(error).strip()}
            log.warning("the health history waits for the database", extra=facts)

    async def store(self) -> None:
        """Put what waits into the database; what the database does not take goes on waiting.

        Raises:
            psycopg.Error, PoolTimeout: the database is away or refuses.
        """
        rows = list(self._waiting)
        if not rows:
            return
        dropped_rows = self.dropped_rows
        async with self._pool.connection() as conn:
            await store_health(conn, rows)
        for _ in range(len(rows) - (self.dropped_rows - dropped_rows)):
            self._waiting.popleft()

    async def sweep(self) -> None:
        """Delete what is older than is kept, some at a time so that nobody waits."""
        before = self._clock.now() - self._keep
        more = True
        while more:
            async with self._pool.connection() as conn:
                more = await sweep_health(conn, before)


def _counts(health: StreamHealth) -> dict[str, int]:
    return {name: getattr(health, name) for name in _COUNTS}
