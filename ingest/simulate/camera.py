"""What a simulated camera is: its configuration, and what one request of a stream asks for beyond it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ingest.access_unit import Codec, StreamName
from ingest.errors import GridwatchError
from ingest.simulate.clip import Clip, ParameterSetPlace
from ingest.simulate.clips import ClipLibrary
from ingest.simulate.fault import Fault, FaultKind
from ingest.simulate.scenes import SceneName

DigestAlgorithms = Literal["md5", "sha-256", "both"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a stream deviates from its profile; also the URL query's keys. None means: as the profile says."""

    gop_s: int | None = None  # 1, 2, 4, 10 or 30
    rate: Literal["night", "1fps"] | None = None  # 25 to 12 fps in the middle of the loop; one frame a second
    b_frames: bool = False
    codec: Codec | None = None
    parameter_sets: ParameterSetPlace = "both"
    near_wrap: bool = False  # RTP time and sequence numbers start 10 s before they wrap
    start: Literal["keyframe", "anywhere"] = "keyframe"

    @property
    def suffix(self) -> str:
        """The part of a profile's name that stands for this variant; "" when the profile itself serves."""
        if self.gop_s is not None:
            return f"-gop{self.gop_s}"
        if self.rate is not None:
            return f"-{self.rate}"
        if self.b_frames:
            return "-bframes"
        return "-h265" if self.codec == "hevc" else ""


@dataclass(frozen=True)
class SimCamera:
    """One simulated camera. Profiles and scenes are names of the clip library; `sub=None` leaves the sub stream out."""

    id: str
    scene: SceneName = "walker"
    main: str = "tiny"
    sub: str | None = "tiny-sub"
    phase_s: float = 0.0  # how far its loop is ahead of the town's clock
    variant: Variant = Variant()
    user: str | None = None
    password: str = ""
    digest: DigestAlgorithms = "both"
    max_sessions: int | None = None  # further ones get 453
    own_port: bool = False  # a port of its own, so that its plug can be pulled at TCP level
    clock_offset_s: float = 0.0  # how wrong the clock in its sender reports is
    fault: Fault | None = None  # from the start


class StreamQuery(BaseModel):
    """The URL's query: a variant, and possibly a fault. Unknown keys are refused: a typo is no success."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    gop_s: Literal["1", "2", "4", "10", "30"] | None = None
    rate: Literal["night", "1fps"] | None = None
    b_frames: bool | None = None
    codec: Literal["h264", "h265"] | None = None
    parameter_sets: ParameterSetPlace | None = None
    near_wrap: bool | None = None
    start: Literal["keyframe", "anywhere"] | None = None
    profile: str | None = None
    scene: SceneName | None = None
    fault: FaultKind | None = None
    after_s: float = Field(default=0.0, ge=0)
    for_s: float | None = Field(default=None, gt=0)
    percent: float = Field(default=5.0, ge=0, le=100)
    by_s: float = 3600.0
    bps: int | None = Field(default=None, gt=0)
    delay_ms: int = Field(default=0, ge=0, le=4000)

    @property
    def timed_fault(self) -> Fault | None:
        """The fault that the query asks for."""
        if self.fault is None:
            return None
        return Fault(
            kind=self.fault,
            after_s=self.after_s,
            for_s=self.for_s,
            percent=self.percent,
            by_s=self.by_s,
            bps=self.bps,
            delay_ms=self.delay_ms,
        )

    def variant(self, base: Variant) -> Variant:
        """The camera's variant with what the query says on top."""
        return Variant(
            gop_s=base.gop_s if self.gop_s is None else int(self.gop_s),
            rate=self.rate or base.rate,
            b_frames=base.b_frames if self.b_frames is None else self.b_frames,
            codec=base.codec if self.codec is None else ("hevc" if self.codec == "h265" else "h264"),
            parameter_sets=self.parameter_sets or base.parameter_sets,
            near_wrap=base.near_wrap if self.near_wrap is None else self.near_wrap,
            start=self.start or base.start,
        )


def parse_query(query: str) -> StreamQuery:
    """Read a URL's query.

    Raises:
        GridwatchError: simulate.bad_query names key and reason; the server answers 400.
    """
    try:
        return StreamQuery.model_validate(dict(parse_qsl(query, keep_blank_values=True)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GridwatchError("simulate.bad_query", query=query, key=where, why=first["msg"]) from error


def canonical_query(query: str) -> str:
    """The same query for the same wish: keys in order."""
    return urlencode(sorted(parse_qsl(query, keep_blank_values=True)))


def find_clip(library: ClipLibrary, camera: SimCamera, stream: StreamName, query: StreamQuery) -> Clip | None:
    """The clip that a request of a stream plays, or None when there is no such stream.

    Variants are encoded in small sizes only: where the stream's own profile lacks one, that of `sub` or `tiny` serves.
    """
    base = query.profile or (camera.main if stream == "main" else camera.sub)
    if base is None:
        return None
    suffix = query.variant(camera.variant).suffix
    names = [base] if not suffix or query.profile else [base + suffix, "sub" + suffix, "tiny" + suffix]
    scene = query.scene or camera.scene
    return next((clip for name in names if (clip := library.get(scene, name)) is not None), None)
