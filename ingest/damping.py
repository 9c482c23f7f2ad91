"""Damping: what keeps coming back has to last (or stay away) longer each time before it counts.

Life cycle: one for each matter that may flap. `came` is told when an event of the matter opens, `left` when it ends:
from then on the matter needs twice the time, up to `most_s`; after `calm_s` without an event the usual time again.
"""

from __future__ import annotations


class Damper:
    """All times are seconds on one monotonic clock."""

    def __init__(self, usual_s: float, most_s: float, calm_s: float) -> None:
        self._usual_s = usual_s
        self._most_s = max(usual_s, most_s)
        self._calm_s = calm_s
        self._needed_s = usual_s
        self._left_s: float | None = None

    def came(self, now_s: float) -> None:
        """An event of the matter has begun: until it ends, no calm."""
        self._needed_s = self.needed_s(now_s)
        self._left_s = None

    def left(self, now_s: float) -> None:
        """An event of the matter is over."""
        self._needed_s = min(self._most_s, 2 * self.needed_s(now_s))
        self._left_s = now_s

    def needed_s(self, now_s: float) -> float:
        """How long it takes, as things stand."""
        is_calm = self._left_s is not None and now_s - self._left_s >= self._calm_s
        return self._usual_s if is_calm else self._needed_s
