"""The clock that is passed in: wall time dates, monotonic time measures, tests move both by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """`now()` is UTC and may step; `monotonic_s()` never does. Durations of media come from media time."""

    def now(self) -> datetime:
        """The server's wall clock, timezone-aware, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start, never backwards."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until `advance`; for tests."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC), monotonic_s: float = 1000.0) -> None:
        self._now = now
        self._monotonic_s = monotonic_s

    def now(self) -> datetime:
        return self._now

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now += timedelta(seconds=seconds)
        self._monotonic_s += seconds

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock alone, as NTP or an operator would; may be negative."""
        self._now += timedelta(seconds=seconds)
