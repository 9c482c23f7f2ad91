"""From 32-bit RTP time to pts, dts and wall time of one session. Pure.

- pts: unwrapped, 90 kHz, starts at the first RTP time. A leap (forward faster than arrivals by `LEAP_S`, or backward
  beyond what reordering explains) is a discontinuity: pts goes on by the time that passed on the server's clock.
- dts: the pts sorted and delayed by the reorder depth, so dts <= pts and dts grows. Where the SPS says no depth, or a
  wrong one, a unit that comes out of order deepens it by one and is a discontinuity.
- wall: see `ingest.rtsp.wall_fit`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from ingest.rtsp.wall_fit import WallFit

LEAP_S = 5.0
BACK_S = 2.0
MAX_REORDER = 16
WALL_STEP_S = 0.5
_DEFAULT_STEP_90K = 3600


class Timeline:
    """`on_reorder(depth)` tells that the stream reorders deeper than was said."""

    def __init__(self, on_reorder: Callable[[int], None]) -> None:
        self._on_reorder = on_reorder
        self._fit = WallFit()
        self._wall_offset_s = 0.0
        self._wall_known = False
        self._last_rtp = 0
        self._pts = 0
        self._highest_pts = 0
        self._below = 0
        self._same = 0
        self._arrival_s = 0.0
        self._started = False
        self._broken = True
        self._depth = 0
        self._step_90k = _DEFAULT_STEP_90K
        self._waiting: list[int] = []
        self._last_dts: int | None = None

    def set_wall_offset(self, wall_minus_monotonic_s: float) -> None:
        """The server's wall clock minus its monotonic clock, told every second or so; a step breaks the timeline."""
        if self._wall_known and abs(wall_minus_monotonic_s - self._wall_offset_s) > WALL_STEP_S:
            self._broken = True
        self._wall_offset_s = wall_minus_monotonic_s
        self._wall_known = True

    def set_reorder(self, depth: int | None, fps: float | None) -> None:
        """What a new SPS says: frames of reordering (None: nothing), and a frame rate for the first dts."""
        if depth is not None and depth != self._depth:
            self._depth = depth
            self._restart_dts()
        self._step_90k = max(1, int(90_000 / fps)) if fps else _DEFAULT_STEP_90K

    def break_here(self) -> None:
        """The next unit begins a new run (its format has changed, its sequence was reset)."""
        self._broken = True

    def stamp(self, rtp: int, arrival_s: float) -> tuple[int, int, float, bool]:
        """(pts_90k, dts_90k, wall_s, discontinuity) of the next unit in decoding order."""
        if not self._started:
            self._started = True
            pts = self._highest_pts = rtp
        else:
            delta = ((rtp - self._last_rtp + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000
            pts = self._pts + delta
            elapsed_s = arrival_s - self._arrival_s
            if delta == 0:
                # Second field of a picture, or a stalled RTP clock: one tick on, so that pts still grows.
                self._same += 1
                leaps = False
            elif pts > self._highest_pts:
                leaps = delta > (LEAP_S + elapsed_s) * 90_000
                self._below = self._same = 0
            else:
                self._same = 0
                self._below += 1
                leaps = self._below > MAX_REORDER or self._highest_pts - pts > BACK_S * 90_000
            if leaps:
                pts = self._highest_pts + max(self._step_90k, int(elapsed_s * 90_000))
                self._broken = True
                self._below = self._same = 0
                self._fit.restart()
                self._restart_dts()
            if pts > self._highest_pts:
                self._highest_pts = pts
        self._last_rtp = rtp
        self._pts = pts
        self._arrival_s = arrival_s
        pts += self._same
        if not self._depth and (self._last_dts is None or pts > self._last_dts):
            dts = self._last_dts = pts
        else:
            dts = self._dts(pts)
        taken_s, stepped = self._fit.taken_s(pts / 90_000, arrival_s)
        broken = self._broken or stepped
        self._broken = False
        return pts, dts, taken_s + self._wall_offset_s, broken

    def _dts(self, pts: int) -> int:
        depth = self._depth
        last = self._last_dts
        if depth == 0:
            if last is None or pts > last:
                self._last_dts = pts
                return pts
        else:
            waiting = self._waiting
            heapq.heappush(waiting, pts)
            if len(waiting) > depth:
                dts = heapq.heappop(waiting)
            else:
                # The first units of a run stand before the earliest pts, a frame apart.
                dts = waiting[0] - (depth + 1 - len(waiting)) * self._step_90k
            if last is None or dts > last:
                self._last_dts = dts
                return dts
            if pts > last:
                self._last_dts = last + 1
                return last + 1
        # Out of order although the depth says it cannot be.
        if depth < MAX_REORDER:
            self._depth = depth + 1
            self._on_reorder(self._depth)
        self._broken = True
        self._restart_dts()
        if self._depth:
            heapq.heappush(self._waiting, pts)
        self._last_dts = pts - self._depth * self._step_90k
        return self._last_dts

    def _restart_dts(self) -> None:
        self._waiting.clear()
        self._last_dts = None
