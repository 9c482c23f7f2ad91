"""H.264 access units as RTP payloads (RFC 6184, packetization-mode 1), made once a stream and shared by its viewers.

Only what a header needs differs between viewers (sequence number, SSRC, time origin, keys); the payloads do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ingest.access_unit import AccessUnit

PAYLOAD_MAX_BYTES = 1200  # with RTP, SRTP, UDP and IPv6 headers below every usual MTU, tunnels included

_START_CODE_BYTES = 4
_AUD, _FILLER = 9, 12  # say nothing to a decoder; filler is up to half of a constant-bitrate stream
_STAP_A, _FU_A = 24, 28


@dataclass(frozen=True, slots=True)
class PackedUnit:
    """One access unit as RTP payloads; `timestamp` is 90 kHz on the source's timeline, without wrap or origin."""

    payloads: tuple[bytes, ...]
    timestamp: int
    is_keyframe: bool
    size_bytes: int


def packetise(unit: AccessUnit, timestamp: int) -> PackedUnit:
    """Split one H.264 access unit into payloads of at most `PAYLOAD_MAX_BYTES`.

    Small units travel together (STAP-A), large ones in pieces of like size (FU-A). Access unit delimiters and filler
    are left out. An access unit without any other NAL unit gives no payloads.
    """
    payloads: list[bytes] = []
    together: list[bytes] = []
    together_bytes = 1
    for nal in _nal_units(unit):
        if together and (together_bytes + 2 + len(nal) > PAYLOAD_MAX_BYTES):
            payloads.append(_aggregate(together))
            together, together_bytes = [], 1
        if len(nal) > PAYLOAD_MAX_BYTES:
            payloads.extend(_fragment(nal))
        else:
            together.append(nal)
            together_bytes += 2 + len(nal)
    if together:
        payloads.append(_aggregate(together))
    return PackedUnit(tuple(payloads), timestamp, unit.is_keyframe, sum(map(len, payloads)))


def _nal_units(unit: AccessUnit) -> list[bytes]:
    ends = (*unit.nal_offsets, len(unit.data))
    units = (unit.data[start + _START_CODE_BYTES : end] for start, end in pairwise(ends))
    return [nal for nal in units if nal and nal[0] & 0x1F not in (_AUD, _FILLER)]


def _aggregate(nals: list[bytes]) -> bytes:
    if len(nals) == 1:
        return nals[0]
    forbidden = max(nal[0] & 0x80 for nal in nals)
    importance = max(nal[0] & 0x60 for nal in nals)
    parts = [bytes((forbidden | importance | _STAP_A,))]
    for nal in nals:
        parts += (len(nal).to_bytes(2, "big"), nal)
    return b"".join(parts)


def _fragment(nal: bytes) -> list[bytes]:
    indicator = (nal[0] & 0xE0) | _FU_A
    kind = nal[0] & 0x1F
    pieces = -(-(len(nal) - 1) // (PAYLOAD_MAX_BYTES - 2))
    edges = [1 + (len(nal) - 1) * i // pieces for i in range(pieces + 1)]
    fragments = []
    for number, (start, end) in enumerate(pairwise(edges)):
        first, last = number == 0, number == pieces - 1
        fragments.append(bytes((indicator, kind | (0x80 if first else 0) | (0x40 if last else 0))) + nal[start:end])
    return fragments
