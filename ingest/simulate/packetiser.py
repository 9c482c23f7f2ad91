"""RTP packets of an access unit, made once: H.264 by RFC 6184 (single NAL, FU-A), H.265 by RFC 7798 (single NAL, FU).

The result is one buffer in the interleaved framing of RFC 2326 10.12 (`$`, channel, length, RTP packet), so that TCP
clients get it as it is and UDP clients get its slices. Sequence number, RTP time and SSRC are left for the moment of
sending.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ingest.access_unit import Codec
from ingest.simulate.bitstream import PARAMETER_SETS, nal_type
from ingest.simulate.frame_number import mark_nal, source_offset

MAX_PAYLOAD_BYTES: Final = 1400
PAYLOAD_TYPE: Final = 96
INTERLEAVED_BYTES: Final = 4  # $, channel, length
RTP_HEADER_BYTES: Final = 12
SEQUENCE_AT: Final = INTERLEAVED_BYTES + 2  # then 16 bit sequence number, 32 bit RTP time, 32 bit SSRC

_FRAMING = struct.Struct(">BBHBB")


@dataclass(frozen=True, slots=True)
class PacketisedUnit:
    """One access unit as packets. The first `parameter_packets` hold the parameter sets and nothing else."""

    template: bytes
    packet_offsets: tuple[int, ...]  # where each `$` stands
    parameter_packets: int
    source_at: int  # where the mark's source stands; its number follows directly
    pts_90k: int  # within the clip
    dts_90k: int
    is_keyframe: bool


def fragments(nal: bytes, codec: Codec, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> list[bytes]:
    """The RTP payloads of one NAL unit: itself when it fits, fragmentation units otherwise."""
    if len(nal) <= max_payload_bytes:
        return [nal]
    kind = nal_type(nal, codec)
    if codec == "hevc":
        header, body = bytes(((nal[0] & 0x81) | 49 << 1, nal[1])), nal[2:]
    else:
        header, body = bytes(((nal[0] & 0xE0) | 28,)), nal[1:]
    room = max_payload_bytes - len(header) - 1
    found: list[bytes] = []
    for at in range(0, len(body), room):
        flags = (0x80 if at == 0 else 0) | (0x40 if at + room >= len(body) else 0)
        found.append(header + bytes((flags | kind,)) + body[at : at + room])
    return found


def packetise(nals: list[bytes], codec: Codec, pts_90k: int, dts_90k: int, is_keyframe: bool) -> PacketisedUnit:
    """Packets of an access unit, with a frame mark between parameter sets and slices."""
    sets = [nal for nal in nals if nal_type(nal, codec) in PARAMETER_SETS[codec]]
    rest = [nal for nal in nals if nal_type(nal, codec) not in PARAMETER_SETS[codec]]
    payloads = [payload for nal in sets for payload in fragments(nal, codec)]
    parameter_packets = len(payloads)
    payloads.append(mark_nal(codec))
    payloads += [payload for nal in rest for payload in fragments(nal, codec)]
    parts: list[bytes] = []
    offsets: list[int] = []
    size = 0
    for number, payload in enumerate(payloads):
        marker = 0x80 if number == len(payloads) - 1 else 0
        head = _FRAMING.pack(0x24, 0, RTP_HEADER_BYTES + len(payload), 0x80, marker | PAYLOAD_TYPE) + bytes(10)
        parts += (head, payload)
        offsets.append(size)
        size += len(head) + len(payload)
    source_at = offsets[parameter_packets] + INTERLEAVED_BYTES + RTP_HEADER_BYTES + source_offset(codec)
    return PacketisedUnit(b"".join(parts), tuple(offsets), parameter_packets, source_at, pts_90k, dts_90k, is_keyframe)
