"""What a worker's log says of its cameras' states: faults and returns one by one, the rest as one count.

Life: a worker makes one, gives it every change of state (`note`), and calls `flush` at least once a second. A town that
starts is one line ("cameras live 128/128"), a switch that dies is some lines with names and then one a second with
counts, a camera that comes and goes is told when it goes and when it has come back.
"""

from __future__ import annotations

import logging
from collections import Counter

from ingest.clock import Clock
from ingest.errors import sentence
from ingest.health import CameraState, StreamHealth

log = logging.getLogger(__name__)

LINES_A_SECOND = 5
SETTLED_S = 1.0  # no change for so long: the count is worth a line
LATEST_COUNT_S = 10.0  # while it changes all the time

_NO_FAULT = frozenset({CameraState.WAITING, CameraState.CONNECTING, CameraState.LIVE, CameraState.STOPPED})


class StateLog:
    """Not thread-safe: for the event loop that the links live on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._faults: dict[tuple[str, str], str] = {}  # streams with a fault, and the code that was noted last
        self._live: set[tuple[str, str]] = set()
        self._lines = 0
        self._since_s = clock.monotonic_s()  # of the second that `_lines` counts
        self._unsaid: Counter[str] = Counter()
        self._changed_s: float | None = None  # the live count's last change that was not told yet
        self._first_change_s = 0.0
        self._told_live: tuple[int, int] | None = None

    def note(self, health: StreamHealth) -> None:
        """One stream's new state or reason."""
        key = health.camera_id, health.stream
        is_live = health.state is CameraState.LIVE
        if is_live != (key in self._live):
            self._count_changes()
            (self._live.add if is_live else self._live.discard)(key)
        facts = {"camera": health.camera_id, "stream": health.stream, "state": health.state.value}
        if is_live:
            if self._faults.pop(key, None) is not None and self._may_say("live again"):
                log.info("camera is live again", extra=facts)
        elif health.state is CameraState.STOPPED:
            self._faults.pop(key, None)
        elif health.state not in _NO_FAULT:
            code = health.reason_code or health.state.value
            if self._faults.get(key) != code:
                self._faults[key] = code
                if self._may_say(health.state.value):
                    log.warning("camera fault", extra={**facts, "why": _why(health)})

    def forget(self, camera_id: str) -> None:
        """The camera is no longer this worker's."""
        self._count_changes()
        self._live = {key for key in self._live if key[0] != camera_id}
        self._faults = {key: code for key, code in self._faults.items() if key[0] != camera_id}

    def flush(self, streams: int) -> None:
        """Say what was held back, and how many of all `streams` are live once that has settled."""
        now_s = self._clock.monotonic_s()
        if now_s - self._since_s >= 1.0:
            self._since_s, self._lines = now_s, 0
            if self._unsaid:
                log.warning("more cameras changed", extra=dict(self._unsaid))
                self._unsaid.clear()
        if self._changed_s is None:
            return
        if now_s - self._changed_s >= SETTLED_S or now_s - self._first_change_s >= LATEST_COUNT_S:
            self._changed_s = None
            count = len(self._live), streams
            if count != self._told_live:
                self._told_live = count
                log.info("streams live %d/%d", *count)

    def _count_changes(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._changed_s is None:
            self._first_change_s = now_s
        self._changed_s = now_s

    def _may_say(self, what: str) -> bool:
        if self._lines < LINES_A_SECOND:
            self._lines += 1
            return True
        self._unsaid[what.replace(" ", "_")] += 1
        return False


def _why(health: StreamHealth) -> str | None:
    if health.reason_code is None:
        return None
    return sentence(health.reason_code, "en", **{"camera": health.camera_id, **health.reason_facts})
