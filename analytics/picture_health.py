"""Is the picture a picture? Frozen and black are told from keyframes that are looked at anyway, while frames arrive.

Life cycle: one a camera, fed once a look with rows of luma at native width; it states events of code 5.11 with a `kind`
(`frozen` or `black`), never more than one open at a time. Not thread-safe.

- Frozen: where the picture has texture, the decoded pixels are bit for bit those of an earlier keyframe, look after
  look. A sensor's noise makes an encoder quantise texture differently each time, however strongly it compresses and
  however little noise is left; flat places come out equal in live pictures too and are not asked. A burnt-in clock may
  run on.
- Black: no signal at all (video black, without any noise), and it came at once. A night that falls, or a dark one with
  a sensor's noise, is a picture. Where nothing but black was ever seen, it takes `black_unseen_s`.

A picture without texture cannot be judged as frozen: in such doubt nothing is said. Figures: docs/design/health.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from analytics.decode import Gray
from analytics.rules.rule_state import ClosedBecause
from ingest.camera import Camera
from ingest.damping import Damper
from ingest.event import Event, Evidence
from ingest.ongoing_event import OngoingEvent

CODE = "5.11"
ROWS = 36  # of luma, evenly spaced over the picture's height
Kind = Literal["frozen", "black"]

_TILE_PX = 16  # tiles are 1 x 16 pixels
_TEXTURE = 12  # levels between a tile's darkest and lightest pixel
_FEWEST_TILES = 40  # with texture; below that nobody can tell
_EQUAL = 0.95  # share of those tiles that are equal in a frozen picture
_BLACK = 18  # 8-bit luma: video black is 16, or 0 in full range
_BLACK_SPREAD = 0.5  # standard deviation: noise is more
_BURNT_IN = 0.03  # share of the picture that a clock or a name may take
_LIT, _LAMP = 40, 0.001  # level, and the share of the picture that has it: some light somewhere


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """When an abnormal picture is an event; seconds on the server's monotonic clock."""

    frozen_s: float = 60.0
    frozen_looks: int = 6
    black_s: float = 20.0
    black_looks: int = 4
    black_unseen_s: float = 600.0  # where no lit picture was seen just before
    lit_before_s: float = 60.0  # "just before"
    clear_looks: int = 3  # in a row, of a picture that is none of it
    suspicious_looks: int = 3  # from then on looks come faster, so that they do not fall in step with a repeating scene
    most_s: float = 3600.0  # what `frozen_s` and `black_s` grow to while it comes and goes
    calm_s: float = 1800.0  # without an event, until they are the usual ones again


class PictureHealth:
    """`save_picture` puts evidence on disk and returns it, or None when the disk refused."""

    def __init__(self, camera: Camera, epoch: int, limits: PictureLimits | None = None) -> None:
        self.camera = camera
        self._ongoing = OngoingEvent(CODE, camera.id, epoch)
        self._limits = limits or PictureLimits()
        self._dampers: dict[Kind, Damper] = {
            "frozen": Damper(self._limits.frozen_s, self._limits.most_s, self._limits.calm_s),
            "black": Damper(self._limits.black_s, self._limits.most_s, self._limits.calm_s),
        }
        self._kind: Kind | None = None  # of the open event
        self._reference: Gray | None = None
        self._run: Kind | None = None  # what the looks of the run have shown
        self._run_looks = 0
        self._run_s = 0.0
        self._run_at: datetime | None = None
        self._came_at_once = False
        self._lit_s: float | None = None
        self._other_looks = 0
        self._other_at: datetime | None = None

    @property
    def kind(self) -> Kind | None:
        """What the open event says, or None."""
        return self._kind

    @property
    def is_suspicious(self) -> bool:
        """A run has begun that may become an event: this camera deserves looks before others."""
        return self._kind is None and self._run is not None and self._run_looks >= self._limits.suspicious_looks

    def observe(
        self, rows: Gray, at: datetime, now_s: float, save_picture: Callable[[], Evidence | None]
    ) -> list[Event]:
        """What follows from one look at a whole picture. `rows`: `Picture.luma_rows(ROWS)`."""
        verdict = self._judge(rows, at, now_s)
        if self._ongoing.event is not None:
            return self._while_open(verdict, at, now_s)
        if verdict is None or not self._lasts(verdict, now_s):
            return []
        return [self._open(verdict, at, now_s, save_picture())]

    def close(
        self, because: ClosedBecause, at: datetime, now_s: float, ended_at: datetime | None = None
    ) -> list[Event]:
        """Close what is open and forget the run."""
        self._reference, self._run, self._run_looks, self._other_looks = None, None, 0, 0
        if self._ongoing.event is None:
            return []
        assert self._kind is not None
        self._dampers[self._kind].left(now_s)
        self._kind = None
        return [self._ongoing.close(because, at, ended_at)]

    # ---- one look

    def _judge(self, rows: Gray, at: datetime, now_s: float) -> Kind | None:
        """What this look shows, having taken it into the run."""
        found = self._looks_like(rows)
        if np.count_nonzero(rows >= _LIT) > _LAMP * rows.size:
            self._lit_s = now_s
        if found is not None and found == self._run:
            self._run_looks += 1
            return found
        if found == "frozen":
            self._run_looks = 2  # the first was the reference, which showed nothing special yet
        else:
            self._reference = rows
            self._run_looks, self._run_s, self._run_at = 1, now_s, at
        if found == "black":
            self._came_at_once = self._lit_s is not None and now_s - self._lit_s <= self._limits.lit_before_s
        self._run = found
        return found

    def _looks_like(self, rows: Gray) -> Kind | None:
        dark = rows <= _BLACK
        if np.count_nonzero(dark) >= (1 - _BURNT_IN) * rows.size and float(rows[dark].std()) < _BLACK_SPREAD:
            return "black"
        return "frozen" if self._reference is not None and equal_where_textured(rows, self._reference) else None

    def _lasts(self, kind: Kind, now_s: float) -> bool:
        limits = self._limits
        needed_s = self._dampers[kind].needed_s(now_s)
        if kind == "black" and not self._came_at_once:
            needed_s = max(needed_s, limits.black_unseen_s)
        looks = limits.frozen_looks if kind == "frozen" else limits.black_looks
        return self._run_looks >= looks and now_s - self._run_s >= needed_s

    def _open(self, kind: Kind, at: datetime, now_s: float, evidence: Evidence | None) -> Event:
        self._kind, self._other_looks = kind, 0
        self._dampers[kind].came(now_s)
        return self._ongoing.open(
            self._run_at or at,
            at,
            {"kind": kind, "looks": self._run_looks},
            lon=self.camera.lon,
            lat=self.camera.lat,
            evidence=(evidence,) if evidence is not None else (),
        )

    def _while_open(self, verdict: Kind | None, at: datetime, now_s: float) -> list[Event]:
        if verdict == self._kind:
            self._other_looks = 0
            return []
        if self._other_looks == 0:
            self._other_at = at
        self._other_looks += 1
        if self._other_looks < self._limits.clear_looks:
            return []
        return self.close("cleared", at, now_s, self._other_at)


def equal_where_textured(rows: Gray, reference: Gray) -> bool:
    """Whether nearly all places with texture hold exactly the reference's pixels; False where too few have any."""
    if rows.shape != reference.shape:
        return False
    tiles, before = _tiles(rows), _tiles(reference)
    equal = (tiles.view(np.uint64) == before.view(np.uint64)).all(axis=1)  # eight pixels at once
    if np.count_nonzero(equal) < _FEWEST_TILES * _EQUAL:
        return False  # nearly always: a live picture costs no more than this
    textured = np.ptp(tiles, axis=1) >= _TEXTURE
    count = int(np.count_nonzero(textured))
    return count >= _FEWEST_TILES and int(np.count_nonzero(equal & textured)) >= _EQUAL * count


def _tiles(rows: Gray) -> Gray:
    width = rows.shape[1] // _TILE_PX * _TILE_PX
    return np.ascontiguousarray(rows[:, :width]).reshape(-1, _TILE_PX)
