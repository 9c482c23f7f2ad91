"""RTCP (RFC 3550 6): reads sender reports and BYE, writes receiver reports. No I/O; bad bytes read as nothing."""

from __future__ import annotations

import struct
from dataclasses import dataclass

NTP_EPOCH_S = 2_208_988_800


@dataclass(frozen=True, slots=True)
class SenderReport:
    """The camera's claim: at `ntp_s` (UTC seconds since 1970, by its clock) its media stood at `rtp`."""

    ssrc: int
    ntp_s: float
    ntp_middle: int  # middle 32 bits, echoed in receiver reports
    rtp: int


@dataclass(frozen=True, slots=True)
class Compound:
    """What one compound packet told."""

    sender_report: SenderReport | None = None
    bye: bool = False


def parse_rtcp(packet: bytes, ssrc: int | None = None) -> Compound:
    """Read a compound packet. Reports of other sources than `ssrc` are left out (None takes any)."""
    report: SenderReport | None = None
    bye = False
    at = 0
    while at + 4 <= len(packet):
        first, kind, words = struct.unpack_from(">BBH", packet, at)
        end = at + 4 + 4 * words
        if first & 0xC0 != 0x80 or end > len(packet):
            break
        if kind == 200 and end - at >= 28:
            source, high, low, rtp = struct.unpack_from(">IIII", packet, at + 4)
            if high and (ssrc is None or source == ssrc):
                middle = (high & 0xFFFF) << 16 | low >> 16
                report = SenderReport(source, high - NTP_EPOCH_S + low / 2**32, middle, rtp)
        elif kind == 203 and end - at >= 8 and first & 0x1F:
            (source,) = struct.unpack_from(">I", packet, at + 4)
            bye |= ssrc is None or source == ssrc
        at = end
    return Compound(report, bye)


def receiver_report(
    own_ssrc: int,
    ssrc: int,
    fraction_lost: int,
    lost: int,
    highest_sequence: int,
    jitter: int,
    last_report: int,
    delay: int,
) -> bytes:
    """A receiver report with one block, and a CNAME; `fraction_lost` in 1/256, `delay` in 1/65536 s."""
    cumulative = max(-(1 << 23), min((1 << 23) - 1, lost)) & 0xFFFFFF
    block = struct.pack(
        ">IIIIII",
        ssrc,
        (fraction_lost & 0xFF) << 24 | cumulative,
        highest_sequence & 0xFFFFFFFF,
        jitter & 0xFFFFFFFF,
        last_report,
        min(delay, 0xFFFFFFFF),
    )
    report = struct.pack(">BBHI", 0x81, 201, 7, own_ssrc) + block
    cname = b"\x01\x09gridwatch\0"
    cname += b"\0" * (-len(cname) % 4)
    return report + struct.pack(">BBHI", 0x81, 202, 1 + len(cname) // 4, own_ssrc) + cname
