"""The look schedule: which camera's newest keyframe is looked at next. One a worker, shared by its analysis threads.

Keyframes are offered as they come; per camera only the newest waits. A camera wants a look every `active_every_s` while
something goes on there, else every `quiet_every_s`; since looks can only be had at keyframes, a keyframe is taken early
when the next one would come too late. Among those that want a look the most overdue, measured in its own cadence, goes
first: active cameras win, nobody starves, and too much work stretches everybody's cadence alike. CPU seconds are spent
from a budget that refills at `budget_cores`. A keyframe that wanted a look and was replaced by a newer one is counted.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ingest.access_unit import AccessUnit
from ingest.clock import Clock

_TOLERANCE = 0.25  # of a GOP: how much a look may be late before the keyframe at hand is taken instead
_BURST_S = 0.5  # CPU seconds that may be saved up
_LONGEST_NAP_S = 0.25


@dataclass(slots=True)
class LookCounters:
    """One camera's looks; counters only grow while the worker lives."""

    keyframes: int = 0
    looks: int = 0
    looks_skipped: int = 0  # wanted and replaced by a newer keyframe: the worker has too much to do
    analysis_lag_s: float | None = None  # from the keyframe's last packet to the end of its look, the last one


@dataclass(slots=True)
class _Turn:
    counters: LookCounters = field(default_factory=LookCounters)
    pending: AccessUnit | None = None
    wanted_s: float = 0.0  # monotonic; when `pending` wants its look
    looked_s: float | None = None  # monotonic; when the last look began
    active_until_s: float = float("-inf")
    gop_s: float = 0.0
    last_keyframe_s: float | None = None
    is_taken: bool = False  # a thread is at it: a camera's looks never overlap


class LookSchedule:
    """Thread-safe. `offer` never blocks for long; `take` waits a short while for something to do."""

    def __init__(
        self,
        clock: Clock,
        active_every_s: float = 2.0,
        quiet_every_s: float = 4.0,
        active_for_s: float = 10.0,
        budget_cores: float = 1.0,
    ) -> None:
        self._clock = clock
        self._active_every_s = active_every_s
        self._quiet_every_s = quiet_every_s
        self._active_for_s = active_for_s
        self._budget_cores = budget_cores
        self._saved_s = _BURST_S
        self._refilled_s = clock.monotonic_s()
        self._turns: dict[str, _Turn] = {}
        self._change = threading.Condition()

    def offer(self, camera_id: str, unit: AccessUnit) -> None:
        """A new keyframe of a camera; replaces the one that waits."""
        now = self._clock.monotonic_s()
        with self._change:
            turn = self._turns.setdefault(camera_id, _Turn())
            turn.counters.keyframes += 1
            if turn.last_keyframe_s is not None:
                turn.gop_s = unit.received_s - turn.last_keyframe_s
            turn.last_keyframe_s = unit.received_s
            if turn.pending is not None and turn.wanted_s <= now:
                turn.counters.looks_skipped += 1
            turn.pending = unit
            turn.wanted_s = self._wanted_s(turn, now)
            if turn.wanted_s <= now:
                self._change.notify()

    def take(self, wait_s: float = _LONGEST_NAP_S) -> tuple[str, AccessUnit] | None:
        """The next look as (camera id, keyframe), or None after `wait_s`. Each must be ended by `done`."""
        with self._change:
            if (found := self._next()) is None:
                self._change.wait(min(wait_s, _LONGEST_NAP_S, self._nap_s()))
                found = self._next()
            if found is None:
                return None
            turn = self._turns[found]
            unit, turn.pending, turn.is_taken = turn.pending, None, True
            turn.looked_s = self._clock.monotonic_s()
            assert unit is not None
            return found, unit

    def done(self, camera_id: str, unit: AccessUnit, is_active: bool, cpu_s: float) -> None:
        """A look is over. `is_active`: something goes on there. `cpu_s`: what it cost, taken from the budget."""
        now = self._clock.monotonic_s()
        with self._change:
            self._saved_s -= cpu_s
            turn = self._turns.get(camera_id)
            if turn is None:
                return
            turn.is_taken = False
            turn.counters.looks += 1
            turn.counters.analysis_lag_s = max(0.0, now - unit.received_s)
            if is_active:
                turn.active_until_s = now + self._active_for_s
            if turn.pending is not None:
                turn.wanted_s = self._wanted_s(turn, now)
                self._change.notify()

    def forget(self, camera_id: str) -> None:
        """The camera's stream is gone: what waits is dropped, its counters stay."""
        with self._change:
            if (turn := self._turns.get(camera_id)) is not None:
                turn.pending = turn.last_keyframe_s = None

    def remove(self, camera_id: str) -> None:
        """The camera is no longer this worker's; its counters go with it."""
        with self._change:
            self._turns.pop(camera_id, None)

    def counters(self) -> dict[str, LookCounters]:
        """A copy of every camera's counters."""
        with self._change:
            return {
                camera_id: LookCounters(c.keyframes, c.looks, c.looks_skipped, c.analysis_lag_s)
                for camera_id, c in ((camera_id, turn.counters) for camera_id, turn in self._turns.items())
            }

    def last_keyframe_s(self, camera_id: str) -> tuple[float | None, float]:
        """(when the camera's newest keyframe came on the monotonic clock, seconds between its last two)."""
        with self._change:
            turn = self._turns.get(camera_id)
            return (turn.last_keyframe_s, turn.gop_s) if turn else (None, 0.0)

    def _every_s(self, turn: _Turn, now: float) -> float:
        return self._active_every_s if now < turn.active_until_s else self._quiet_every_s

    def _wanted_s(self, turn: _Turn, now: float) -> float:
        if turn.looked_s is None:
            return now
        due_s = turn.looked_s + self._every_s(turn, now)
        grace_s = _TOLERANCE * turn.gop_s
        return now if now + turn.gop_s > due_s + grace_s or now >= due_s - grace_s else due_s + grace_s

    def _next(self) -> str | None:
        now = self._clock.monotonic_s()
        self._saved_s = min(_BURST_S, self._saved_s + (now - self._refilled_s) * self._budget_cores)
        self._refilled_s = now
        if self._saved_s <= 0:
            return None
        best, most = None, -1.0
        for camera_id, turn in self._turns.items():
            if turn.pending is None or turn.is_taken or turn.wanted_s > now:
                continue
            since_s = float("inf") if turn.looked_s is None else now - turn.looked_s
            overdue = since_s / self._every_s(turn, now)
            if overdue > most:
                best, most = camera_id, overdue
        return best

    def _nap_s(self) -> float:
        """How long nothing can be taken, as far as is known now."""
        if self._saved_s <= 0:
            return max(0.001, -self._saved_s / self._budget_cores)
        now = self._clock.monotonic_s()
        waits = [t.wanted_s - now for t in self._turns.values() if t.pending is not None and not t.is_taken]
        return max(0.001, min(waits, default=_LONGEST_NAP_S))
