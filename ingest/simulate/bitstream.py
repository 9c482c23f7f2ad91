"""NAL units of H.264 (ITU-T H.264 7.3.1) and H.265 (ITU-T H.265 7.3.1): splitting and types."""

from __future__ import annotations

from typing import Final

from ingest.access_unit import Codec

H264_SEI: Final = 6
H264_SPS: Final = 7
H264_PPS: Final = 8
H264_AUD: Final = 9
H265_VPS: Final = 32
H265_SPS: Final = 33
H265_PPS: Final = 34
H265_AUD: Final = 35
H265_PREFIX_SEI: Final = 39

PARAMETER_SETS: Final[dict[Codec, tuple[int, ...]]] = {
    "h264": (H264_SPS, H264_PPS),
    "hevc": (H265_VPS, H265_SPS, H265_PPS),
}
_DELIMITERS: Final[dict[Codec, int]] = {"h264": H264_AUD, "hevc": H265_AUD}
_SEI: Final[dict[Codec, int]] = {"h264": H264_SEI, "hevc": H265_PREFIX_SEI}
_USER_DATA_UNREGISTERED: Final = 5


def nal_type(nal: bytes, codec: Codec) -> int:
    """The type in a NAL unit's header; `nal` has no start code and at least one byte."""
    return (nal[0] >> 1) & 0x3F if codec == "hevc" else nal[0] & 0x1F


def split_annex_b(data: bytes) -> list[bytes]:
    """The NAL units of an Annex B byte stream, without start codes and trailing zeros; empty ones are left out."""
    found: list[bytes] = []
    start = data.find(b"\x00\x00\x01")
    while start >= 0:
        following = data.find(b"\x00\x00\x01", start + 3)
        nal = data[start + 3 : len(data) if following < 0 else following].rstrip(b"\x00")
        if nal:
            found.append(nal)
        start = following
    return found


def is_encoder_noise(nal: bytes, codec: Codec) -> bool:
    """True for what a camera does not send: delimiters, and the encoder's signature in an SEI message."""
    kind = nal_type(nal, codec)
    if kind == _DELIMITERS[codec]:
        return True
    header = 2 if codec == "hevc" else 1
    return kind == _SEI[codec] and nal[header : header + 1] == bytes([_USER_DATA_UNREGISTERED])
