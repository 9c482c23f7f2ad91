"""What a session delivers: encoded access units, and the format they are in. Pictures are somebody else's matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, dataclass_transform

Codec = Literal["h264", "hevc"]
StreamName = Literal["main", "sub"]


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """What a decoder or a file header needs to know of a stream; a new object whenever the camera changes it.

    Parameter sets are raw NAL units without start code. `fps` is the SPS's claim or None: never used for durations.
    """

    codec: Codec
    sps: bytes
    pps: bytes
    vps: bytes | None
    width: int
    height: int
    profile_level_id: str  # 6 hex digits for H.264 (RFC 6184 8.1), "" for H.265
    reorder_depth: int  # frames that may stand before their display turn; 0 means no B-frames
    fps: float | None = None


_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=())
def _frozen_by_type_check(made: type[_T]) -> type[_T]:
    """Frozen for the type checker only: a dataclass that is frozen at run time takes five times as long to make, and
    3,200 units a second are made."""
    return dataclass(slots=True)(made)


@_frozen_by_type_check
class AccessUnit:
    """One encoded picture as Annex B with 4-byte start codes; shared by all readers, never changed after publishing.

    Every keyframe has its parameter sets inside, in front, even when the camera sends them in SDP only. So the unit of
    any keyframe can start a decoder, a segment or a viewer.
    """

    data: bytes
    nal_offsets: tuple[int, ...]  # where each 4-byte start code stands in `data`
    pts_90k: int  # unwrapped RTP time, 90 kHz, grows without wrap within a session
    dts_90k: int  # equals pts_90k without B-frames
    is_keyframe: bool  # IDR (H.264), IRAP (H.265)
    wall_s: float  # UTC seconds since the epoch, server's clock, fitted over media time
    received_s: float  # monotonic seconds when the last packet came
    format: StreamFormat
    lost_packets: int = 0  # RTP packets missing directly before or inside this unit
    discontinuity: bool = False  # first unit after a clock jump, a format change or a new session
