"""Recipes: what clips there are, and how each is encoded. Changing one changes its hash, so that it is encoded anew."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Final, Literal

from ingest.access_unit import Codec
from ingest.simulate.scenes import WALKER_DURATION_S, SceneName

RECIPE_VERSION: Final = 2

Cadence = Literal["steady", "night"]  # night: full rate in the first half of the loop, 12 fps in the second


@dataclass(frozen=True)
class Profile:
    """How a camera encodes. `name` is how configuration and URLs call it."""

    name: str
    width: int
    height: int
    fps: Fraction
    bitrate_bps: int
    gop_s: float = 2.0
    codec: Codec = "h264"
    b_frames: int = 0
    cadence: Cadence = "steady"
    preset: str = "superfast"


MAIN: Final = Profile("main", 1920, 1080, Fraction(25), 3_000_000, preset="ultrafast")
SUB: Final = Profile("sub", 640, 360, Fraction(12), 400_000)
TINY: Final = Profile("tiny", 320, 180, Fraction(25), 200_000, gop_s=1.0)
TINY_SUB: Final = Profile("tiny-sub", 192, 108, Fraction(12), 60_000, gop_s=1.0)
NIGHT_FPS: Final = 12


def as_h265(profile: Profile) -> Profile:
    """The same profile in H.265."""
    return replace(profile, name=f"{profile.name}-h265", codec="hevc", preset="ultrafast")


def variants(profile: Profile) -> tuple[Profile, ...]:
    """GOPs of 1, 2, 4, 10 and 30 s, a night cadence (25 to 12 fps), one frame a second, B-frames, H.265."""
    name = profile.name
    fast = replace(profile, fps=Fraction(25))
    return (
        *(replace(fast, name=f"{name}-gop{gop}", gop_s=float(gop)) for gop in (1, 2, 4, 10, 30)),
        replace(fast, name=f"{name}-night", cadence="night"),
        replace(fast, name=f"{name}-1fps", fps=Fraction(1), gop_s=4.0),
        replace(fast, name=f"{name}-bframes", b_frames=2),
        as_h265(profile),
    )


@dataclass(frozen=True)
class Recipe:
    """One clip: a scene seen through a profile, `duration_s` long. The loop is a whole number of GOPs."""

    scene: SceneName
    profile: Profile
    duration_s: float

    @property
    def key(self) -> str:
        """Names the clip's file in the cache."""
        plain = json.dumps([RECIPE_VERSION, asdict(self)], default=str, sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:12]

    @property
    def file_name(self) -> str:
        """Where the clip lies in the cache folder; its facts lie beside it as `.json`."""
        return f"{self.scene}-{self.profile.name}-{self.key}.mp4"

    def frame_times_s(self) -> list[float]:
        """The time of every frame from the loop's start."""
        if self.profile.cadence == "steady":
            return [float(frame / self.profile.fps) for frame in range(round(self.duration_s * self.profile.fps))]
        half = self.duration_s / 2
        day = [float(frame / self.profile.fps) for frame in range(round(half * self.profile.fps))]
        return day + [half + frame / NIGHT_FPS for frame in range(round(half * NIGHT_FPS))]

    @property
    def cost(self) -> float:
        """Roughly the seconds that encoding takes on one core; for the progress bar and for the order of work."""
        megapixels = self.profile.width * self.profile.height / 1e6
        slow = 6.0 if self.profile.codec == "hevc" else 1.0 if self.profile.preset == "ultrafast" else 3.0
        return len(self.frame_times_s()) * (megapixels * slow * 0.007 + 0.0003)


def _faces(*profiles: Profile) -> tuple[Recipe, ...]:
    """What a camera shows when it has frozen or gone blind, for the faults."""
    return tuple(Recipe(scene, profile, profile.gop_s) for profile in profiles for scene in ("still", "black"))


def _variant_recipes(profile: Profile) -> tuple[Recipe, ...]:
    def duration_s(variant: Profile) -> float:
        return 30.0 if variant.gop_s == 30 else 20.0 if variant.gop_s == 10 or variant.fps == 1 else 12.0

    return tuple(Recipe("drawn", variant, duration_s(variant)) for variant in variants(profile))


TEST_SET: Final[tuple[Recipe, ...]] = (
    *(Recipe("walker", profile, WALKER_DURATION_S) for profile in (TINY, TINY_SUB)),
    *(Recipe(scene, profile, 12.0) for scene in ("quiet", "street", "drawn") for profile in (TINY, TINY_SUB)),
    *_variant_recipes(TINY),
    *_faces(TINY, TINY_SUB),
)
DEMO_SET: Final[tuple[Recipe, ...]] = (
    *(Recipe("walker", profile, WALKER_DURATION_S) for profile in (MAIN, SUB)),
    *(Recipe("street", profile, 12.0) for profile in (MAIN, SUB)),
    *(Recipe("quiet", profile, 6.0) for profile in (MAIN, SUB)),
    *(Recipe("street", as_h265(profile), 4.0) for profile in (MAIN, SUB)),
    *_variant_recipes(SUB)[:-1],
    *_faces(MAIN, SUB),
)
BENCH_SET: Final[tuple[Recipe, ...]] = (
    *(Recipe("drawn", profile, 12.0) for profile in (MAIN, SUB)),
    *DEMO_SET,
)
SETS: Final[dict[str, tuple[Recipe, ...]]] = {"test": TEST_SET, "demo": DEMO_SET, "bench": BENCH_SET}
