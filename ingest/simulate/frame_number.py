"""A frame number in every access unit, so that a loss, a double or a swap can be proven far behind the camera.

It travels as an SEI message "user data unregistered" (H.264 D.1.7, H.265 D.2.7), which decoders ignore and recordings
keep. Number and source are written seven bits a byte with the top bit set: no byte is zero, so emulation prevention
(H.264 7.4.1) never changes the length and the number can be patched into packets that were made beforehand.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from ingest.access_unit import Codec
from ingest.simulate.bitstream import H264_SEI, H265_PREFIX_SEI

UUID: Final = bytes.fromhex("6772 6964 7761 7463 a68d 5f66 7261 6d65".replace(" ", ""))
SOURCE_BYTES: Final = 10
NUMBER_BYTES: Final = 10
_PAYLOAD_BYTES: Final = len(UUID) + SOURCE_BYTES + NUMBER_BYTES
_LOW_BITS: Final = 14
_LOW: Final = tuple(bytes((0x80 | n >> 7, 0x80 | n & 0x7F)) for n in range(1 << _LOW_BITS))


@dataclass(frozen=True, slots=True)
class FrameMark:
    """What one access unit says of itself. `source` is `source_hash` of the stream it left the simulator on."""

    source: int
    number: int


def source_hash(camera_id: str, stream: str, query: str = "") -> int:
    """64 bits that name a simulated stream: camera, `main` or `sub`, and the URL's query when there is one."""
    name = f"{camera_id}/{stream}" + (f"?{query}" if query else "")
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def encode_64(number: int) -> bytes:
    """`number` (0 to 2**64-1) in ten bytes, none of them zero."""
    return bytes(0x80 | number >> shift & 0x7F for shift in range(63, -1, -7))


def decode_64(data: bytes) -> int:
    """The inverse of `encode_64`."""
    number = 0
    for byte in data:
        number = number << 7 | byte & 0x7F
    return number & 0xFFFF_FFFF_FFFF_FFFF


class NumberEncoder:
    """`encode_64` for numbers that count up: most of the work is kept from one call to the next."""

    def __init__(self) -> None:
        self._high = -1
        self._high_bytes = b""

    def encode(self, number: int) -> bytes:
        high = number >> _LOW_BITS
        if high != self._high:
            self._high = high
            self._high_bytes = encode_64(number)[:-2]
        return self._high_bytes + _LOW[number & (1 << _LOW_BITS) - 1]


def mark_nal(codec: Codec, source: int = 0, number: int = 0) -> bytes:
    """The SEI NAL unit (without start code) that carries a mark; always the same length for a codec."""
    header = bytes((H265_PREFIX_SEI << 1, 1)) if codec == "hevc" else bytes((H264_SEI,))
    return header + bytes((5, _PAYLOAD_BYTES)) + UUID + encode_64(source) + encode_64(number) + b"\x80"


def source_offset(codec: Codec) -> int:
    """Where the source's ten bytes start within `mark_nal`; the number's ten bytes follow."""
    return (2 if codec == "hevc" else 1) + 2 + len(UUID)


def read_frame_mark(access_unit: bytes) -> FrameMark | None:
    """The mark in an access unit (Annex B, length-prefixed or bare NAL units), or None when it has none."""
    at = access_unit.find(UUID)
    body = access_unit[at + len(UUID) : at + _PAYLOAD_BYTES] if at >= 0 else b""
    if len(body) < SOURCE_BYTES + NUMBER_BYTES:
        return None
    return FrameMark(decode_64(body[:SOURCE_BYTES]), decode_64(body[SOURCE_BYTES:]))


def read_frame_number(access_unit: bytes) -> int | None:
    """The frame number in an access unit, or None when it carries no mark."""
    mark = read_frame_mark(access_unit)
    return None if mark is None else mark.number
