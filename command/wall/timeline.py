"""The timeline of one live stream: 90 kHz timestamps that a browser's jitter buffer understands.

A jitter buffer learns how media time maps to arrival time. Two things would mislead it for seconds: a stored GOP that
arrives in a burst with its true spacing (it would be played at normal speed, for ever late), and a camera clock that
jumps. So backlog gets a spacing of one millisecond, and a jump is taken out by re-anchoring to arrival time.
"""

from __future__ import annotations

from ingest.access_unit import AccessUnit

CATCH_UP_STEP = 90  # 1 ms between frames that are shown only to get to the live one
BACKLOG_AGE_S = 0.3  # older on arrival than this: a cached picture, not a live one
_JUMP = 5 * 90_000
_LONGEST_GAP = 60 * 90_000


class Timeline:
    """Stamps access units in order of arrival; every stamp is larger than the one before."""

    def __init__(self) -> None:
        self.last = 0
        self._offset: int | None = None
        self._last_pts_90k = 0
        self._last_received_s = 0.0

    def stamp(self, unit: AccessUnit, now_s: float) -> int:
        """The timestamp of `unit`, which is taken at monotonic time `now_s`."""
        if now_s - unit.received_s > BACKLOG_AGE_S:
            self._offset = None
            stamp = self.last + CATCH_UP_STEP
        else:
            if self._offset is None:
                self._offset = self.last + CATCH_UP_STEP - unit.pts_90k
            elif unit.discontinuity or not 0 < unit.pts_90k - self._last_pts_90k < _JUMP:
                gap = round((unit.received_s - self._last_received_s) * 90_000)
                self._offset = self.last + min(max(gap, CATCH_UP_STEP), _LONGEST_GAP) - unit.pts_90k
            stamp = max(unit.pts_90k + self._offset, self.last + 1)
        self._last_pts_90k, self._last_received_s = unit.pts_90k, unit.received_s
        self.last = stamp
        return stamp
