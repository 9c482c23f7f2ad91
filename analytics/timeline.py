"""A camera's own time: seconds that grow with its media time and never go back, over sessions and clock jumps."""

from __future__ import annotations

from ingest.access_unit import AccessUnit

_SLACK_S = 5.0  # how far a unit's receipt may lag or hurry against its media time


class MediaTimeline:
    """Fed with the units that are looked at, in order; those in between need not be seen.

    It follows `pts_90k` as long as that agrees with when the units were received (the server's monotonic clock). Where
    it does not, a new session or a jump of the camera's clock lies between, and the time between receipts counts.
    """

    def __init__(self) -> None:
        self._last: AccessUnit | None = None
        self._now_s = 0.0

    def advance(self, unit: AccessUnit) -> float:
        """Seconds since the first unit."""
        if (last := self._last) is not None:
            step_s = (unit.pts_90k - last.pts_90k) / 90_000
            received_s = max(0.0, unit.received_s - last.received_s)
            if unit.discontinuity or step_s < 0 or abs(step_s - received_s) > _SLACK_S:
                step_s = received_s
            self._now_s += step_s
        self._last = unit
        return self._now_s
