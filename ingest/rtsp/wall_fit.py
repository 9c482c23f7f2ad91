"""When was a picture taken? The earliest arrival over media time, slewed. Pure arithmetic.

A frame cannot arrive before it was taken, so the smallest `arrival - media time` of a while is the best estimate of
their difference: it is the frame that the network delayed least. The estimate follows the minimum of the last two
windows by at most `MAX_SLEW` (camera crystals are off by tens of ppm), so that wall time never jitters with the
network; only when it is more than `STEP_S` off (a camera that paused, then went on counting) it steps, and says so.
"""

from __future__ import annotations

SETTLE_S = 10.0
WINDOW_S = 10.0
MAX_SLEW = 500e-6
STEP_S = 1.0


class WallFit:
    """Times are seconds; the answer is in the clock that arrivals are given in (monotonic)."""

    __slots__ = ("_last_media_s", "_offset_s", "_previous_min_s", "_settled_at_s", "_window_end_s", "_window_min_s")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything: media time has jumped."""
        self._offset_s: float | None = None
        self._settled_at_s = self._window_end_s = self._last_media_s = 0.0
        self._previous_min_s: float | None = None
        self._window_min_s = 0.0

    def taken_s(self, media_s: float, arrival_s: float) -> tuple[float, bool]:
        """(when the unit of this media time was taken, whether the estimate has stepped)."""
        seen_s = arrival_s - media_s
        offset_s = self._offset_s
        if offset_s is None:
            self._offset_s = self._window_min_s = seen_s
            self._settled_at_s = arrival_s + SETTLE_S
            self._window_end_s = arrival_s + WINDOW_S
            self._last_media_s = media_s
            return arrival_s, False
        stepped = False
        if seen_s < self._window_min_s:
            self._window_min_s = seen_s
        if arrival_s < self._settled_at_s:
            # A burst of cached frames at the start makes the first arrivals late: believe earlier ones at once.
            if seen_s < offset_s:
                self._offset_s = offset_s = seen_s
        else:
            target_s = self._previous_min_s
            if target_s is not None:
                error_s = target_s - offset_s
                if error_s > STEP_S or error_s < -STEP_S:
                    offset_s, stepped = target_s, True
                else:
                    most_s = MAX_SLEW * max(0.0, media_s - self._last_media_s)
                    offset_s += max(-most_s, min(most_s, error_s))
                self._offset_s = offset_s
        if arrival_s >= self._window_end_s:
            self._previous_min_s = self._window_min_s
            self._window_min_s = seen_s
            self._window_end_s = arrival_s + WINDOW_S
        if media_s > self._last_media_s:
            self._last_media_s = media_s
        return media_s + offset_s, stepped
