"""RTP packets (RFC 3550) to access units: H.264 (RFC 6184) and H.265 (RFC 7798). No I/O; hostile bytes are counted.

`packet()` runs for every packet of every camera, so it looks at bytes in place, makes no object but the payload's
slice, and joins a unit's slices once. Policies:

- A unit ends at the marker bit, or when RTP time changes. A marker behind parameter sets or SEI alone is wrong and
  ignored (some cameras set it on every NAL unit). If slices of an ended unit follow, the camera marks slices, not
  pictures: from then on only a change of RTP time ends a unit (`marker_faults`).
- Parameter sets with a time of their own belong to the picture that follows.
- A unit with a packet missing inside is damaged: dropped and counted; its loss is told by the next unit's
  `lost_packets`. After a damaged keyframe everything up to the next keyframe is dropped (`undecodable_units`): its
  references are missing. Loss between complete units only shows in `lost_packets`.
- Before the first keyframe nothing is delivered (`undecodable_units`).
- The parameter sets stand in front of every keyframe. Filler is dropped; delimiters are dropped from keyframes only.
- A fragmented unit without its end bit is damaged, except with a camera that has never sent an end bit.
- Packets of another SSRC between those of the stream are another session's (old live555) and are passed over. They are
  held back meanwhile: when none of the stream's own come for `FOREIGN_WAIT_S`, the stream has begun anew with them.
- A keyframe that is hidden behind a parameter set, with start codes between them, is taken apart.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import accumulate, pairwise

from ingest.access_unit import AccessUnit
from ingest.rtsp.parameter_sets import MAX_SET_BYTES, START_CODE, ParameterSets, split_annex_b
from ingest.rtsp.timeline import Timeline

MAX_UNIT_BYTES = 8 << 20
MAX_UNIT_NALS = 1024
MAX_FOREIGN_PACKETS = 256
FOREIGN_WAIT_S = 1.0
MAX_SEQUENCE_GAP = 3000  # RFC 3550 A.1 MAX_DROPOUT: a wider gap is a restart, not a loss

_PART_WEIGHT = 64  # what a packet's or NAL unit's bookkeeping costs, counted towards MAX_UNIT_BYTES
# `$` and channel, length, RTP's first two bytes, sequence, stamp
_FRAME_HEAD: Callable[[bytes, int], tuple[int, int, int, int, bytes]] = struct.Struct(">HHHH8s").unpack_from
_NEVER: tuple[bytes, ...] = ()
_NO_STAMP = b"\xff" * 9  # never found in the eight bytes of a real one
_STARTS_H264 = tuple(START_CODE + bytes((header,)) for header in range(256))


class Depacketiser:
    """Counters are public and only grow. `received_s` is set by the reader before it hands over a chunk of packets."""

    def __init__(
        self, payload_type: int, sets: ParameterSets, timeline: Timeline, on_unit: Callable[[AccessUnit], None]
    ) -> None:
        self.payload_type = payload_type
        self.received_s = 0.0
        self.packets = 0
        self.lost_packets = 0
        self.bad_packets = 0  # too short, wrong version, unknown packetisation
        self.foreign_packets = 0  # another payload type, or another session's SSRC
        self.sequence_resets = 0
        self.units = 0  # delivered
        self.damaged_units = 0
        self.undecodable_units = 0
        self.oversized_units = 0
        self.marker_faults = 0
        self.in_band_sets = 0  # parameter sets that came with the pictures, repeated ones too
        self.media_bytes = 0  # of delivered units
        self.seen_units = 0  # every complete unit, delivered or not: a sign of life
        self.last_unit_s = 0.0  # monotonic, of the last complete unit
        self.ssrc = 0
        self.highest_sequence = 0  # extended: cycles << 16 | sequence number
        self.sets = sets
        self._timeline = timeline
        self._on_unit = on_unit
        self._next_sequence = -1
        self._stamp = _NO_STAMP  # RTP time and SSRC of the unit in progress, as sent
        self._parts: list[bytes] = []
        self._headers: list[int] = []  # NAL types of the unit in progress
        self._starts: list[int] = []  # index in _parts of each NAL's start code
        self._middle: bytes | tuple[bytes, ...] = _NEVER  # what a further fragment begins with
        self._middle_bytes = 0
        self._final = b""  # what the last fragment begins with
        self._in_fragments = False
        self._end_bits_seen = False
        self._unit_weight = 0
        self._unit_lost = 0
        self._damaged = False
        self._damaged_key = False
        self._has_picture = False
        self._has_key = False
        self._has_sets = False
        self._has_filler = False
        self._wait_key = True
        self._by_marker = True
        self._ended_stamp = _NO_STAMP
        self._ssrc = b""  # as sent; empty until it is known
        self._held: list[bytes] = []  # packets of one other SSRC since the last own one
        self._held_ssrc = b""
        self._held_since_s = 0.0
        self._held_at_packets = 0

    def expect_ssrc(self, ssrc: int | None) -> None:
        """What the server has announced; None, or one that never comes, is as good as none."""
        if ssrc is not None:
            self._ssrc = ssrc.to_bytes(4, "big")

    def packet(self, d: bytes, p: int, e: int) -> None:
        """One RTP packet, `d[p:e]`."""
        if e - p < 13:
            self.bad_packets += 1
            return
        second = d[p + 1]
        s, whole_e = p + 12, e
        if d[p] != 0x80:
            s, e = self._payload_bounds(d, p, e)
            if s >= e:
                self.bad_packets += 1
                return
        if second & 0x7F != self.payload_type:
            self.foreign_packets += 1
            return
        same = d.startswith(self._stamp, p + 4, p + 12)
        if not same and not d.startswith(self._ssrc, p + 8):
            self._hold_foreign(d[p:whole_e])
            return
        sequence = d[p + 2] << 8 | d[p + 3]
        if sequence != self._next_sequence:
            self._gap(sequence)
        self._next_sequence = (sequence + 1) & 0xFFFF
        self.packets += 1
        if not same:
            self._change(d[p + 4 : p + 12])
        if d.startswith(self._middle, s):
            self._parts.append(d[s + self._middle_bytes : e])
        else:
            self._payload(d, s, e)
        self._unit_weight += e - s + _PART_WEIGHT
        if second & 0x80:
            self._marker()

    def run(self, d: bytes, o: int, n: int, head: int) -> int:
        """Interleaved frames from `d[o]` on, as long as they only continue the fragmented NAL unit in progress.

        Most packets of a camera are such, and nothing is new in them but their payload. `head` is `$` and the channel
        as one number. Returns the offset of the first frame that is something else; `packet()` knows what.
        """
        middle = self._middle
        if isinstance(middle, tuple) or o + 20 > n:
            return o
        middle_bytes = self._middle_bytes
        skip, least = 16 + middle_bytes, 13 + middle_bytes
        stamp, plain, sequence, parts = self._stamp, 0x8000 | self.payload_type, self._next_sequence, self._parts
        begin, before = o, len(parts)
        while o + 20 <= n:
            start, length, kind, number, its_stamp = _FRAME_HEAD(d, o)
            e = o + 4 + length
            if number != sequence or its_stamp != stamp or start != head or e > n or length < least:
                break
            if kind == plain and d.startswith(middle, o + 16):
                alike = (n - o) // (4 + length)
                if alike < 3:
                    parts.append(d[o + skip : e])
                    sequence = (sequence + 1) & 0xFFFF
                    o = e
                    continue
                # Senders cut a unit into pieces of one size: take frames apart in C as long as they are alike.
                opening, same, taken = d[o : o + 6], stamp + middle, len(parts)
                for its_opening, number, its_same, payload in _frames_of(length, middle_bytes)(
                    memoryview(d)[o : o + alike * (4 + length)]
                ):
                    if number != sequence or its_same != same or its_opening != opening:
                        break
                    parts.append(payload)
                    sequence = (sequence + 1) & 0xFFFF
                o += (len(parts) - taken) * (4 + length)
                continue
            if kind == plain | 0x80 and d.startswith(self._final, o + 16):
                self._next_sequence = (sequence + 1) & 0xFFFF
                self.packets += len(parts) - before + 1
                parts.append(d[o + skip : e])
                self._end_fragments()
                self._marker()
                return e
            break
        count = len(parts) - before
        self._next_sequence = sequence
        self.packets += count
        self._unit_weight += o - begin + _PART_WEIGHT * count
        return o

    def learn(self, sets: list[bytes]) -> None:
        """Take in parameter sets, in-band or from SDP."""
        if self.sets.learn(sets):
            form = self.sets.format
            self._timeline.set_reorder(self.sets.reorder_said, form.fps if form else None)
            self._timeline.break_here()

    def chunk_done(self) -> None:
        """After every chunk of packets: keep the unit in progress within its bounds."""
        if self._unit_weight > MAX_UNIT_BYTES:
            self.oversized_units += 1
            is_key = self._has_key
            self._forget_unit()
            self._damaged = self._has_picture = True
            self._damaged_key = is_key

    def whole_unit(self, nals: list[bytes], rtp: int) -> None:
        """A unit that something else has put together from RTP."""
        stamp = rtp.to_bytes(4, "big") + b"\0\0\0\0"
        if stamp != self._stamp:
            self._change(stamp)
        for nal in nals[:MAX_UNIT_NALS]:
            self._payload(nal, 0, len(nal))
        self._marker()

    def _payload(self, d: bytes, s: int, e: int) -> None:
        raise NotImplementedError

    def _payload_bounds(self, d: bytes, p: int, e: int) -> tuple[int, int]:
        """Where the payload stands in a packet with padding, extension or CSRCs; (0, 0) if the header lies."""
        first = d[p]
        if first & 0xC0 != 0x80:
            return 0, 0
        s = p + 12 + 4 * (first & 0x0F)
        if first & 0x10:
            if s + 4 > e:
                return 0, 0
            s += 4 + 4 * (d[s + 2] << 8 | d[s + 3])
        if first & 0x20 and e > s:
            padding = d[e - 1]
            if not padding:
                return 0, 0
            e -= padding
        return (s, e) if s < e else (0, 0)

    def _gap(self, sequence: int) -> None:
        if self._next_sequence < 0:
            self.highest_sequence = sequence
            return
        missing = (sequence - self._next_sequence) & 0xFFFF
        if missing < MAX_SEQUENCE_GAP:
            self.lost_packets += missing
            self._unit_lost += missing
        else:
            self.sequence_resets += 1
        self._damage()

    def _damage(self) -> None:
        if self._starts or self._in_fragments:
            self._damaged = True
            self._damaged_key |= self._has_key
        self._middle = _NEVER
        self._in_fragments = False

    def _change(self, stamp: bytes) -> None:
        """RTP time or SSRC differ from the last packet's."""
        if self._stamp is not _NO_STAMP:
            if self._has_picture:
                self._end()
            elif self._damaged or stamp[4:] != self._stamp[4:]:
                self._drop_damaged()
            if stamp[4:] != self._stamp[4:]:
                self._timeline.break_here()
        self._ssrc = stamp[4:]
        self.ssrc = int.from_bytes(stamp[4:], "big")
        self._stamp = stamp

    def _hold_foreign(self, packet: bytes) -> None:
        """A packet with another SSRC: another session's, or the stream has begun anew; the next ones will tell."""
        ssrc = packet[8:12]
        if ssrc != self._held_ssrc or self.packets != self._held_at_packets:
            self.foreign_packets += len(self._held)
            self._held.clear()
            self._held_ssrc, self._held_since_s, self._held_at_packets = ssrc, self.received_s, self.packets
        self._held.append(packet)
        if len(self._held) < MAX_FOREIGN_PACKETS and self.received_s - self._held_since_s < FOREIGN_WAIT_S:
            return
        held, self._held = self._held, []
        self._ssrc = ssrc
        for one in held:
            self.packet(one, 0, len(one))

    def _marker(self) -> None:
        if not self._has_picture and self._has_sets and not self._damaged:
            self._unpack_sets()
        if not self._has_picture:
            if self._damaged:
                self._drop_damaged()
            return
        if self._by_marker:
            self._ended_stamp = self._stamp
            self._end()

    def _unpack_sets(self) -> None:
        """The last NAL unit claims to be a parameter set: slices that stand behind a start code in it become units."""
        last = b"".join(self._parts[self._starts[-1] :])
        if not self._is_set(self._headers[-1]) or last.find(START_CODE, 4) < 0:
            return
        del self._parts[self._starts[-1] :], self._starts[-1], self._headers[-1]
        for nal in split_annex_b(last)[:MAX_UNIT_NALS]:
            self._payload(nal, 0, len(nal))

    def _begin_nal(self, kind: int, start: bytes) -> None:
        self._unit_weight += _PART_WEIGHT
        self._headers.append(kind)
        self._starts.append(len(self._parts))
        self._parts.append(start)

    def _picture(self, first_slice: bool) -> None:
        """A picture begins. When not with its first slice, then after loss or with wrong markers."""
        self._has_picture = True
        if not first_slice and not self._damaged:
            if self._stamp == self._ended_stamp and not self._unit_lost:
                self.marker_faults += 1
                self._by_marker = False
            self._damaged = True

    def _bad_payload(self) -> None:
        self.bad_packets += 1
        self._damaged = True
        self._middle = _NEVER
        self._in_fragments = False

    def _end_fragments(self) -> None:
        self._in_fragments = False
        self._end_bits_seen = True
        self._middle = _NEVER

    def _orphan_fragment(self, is_key: bool) -> None:
        self._damaged = True
        self._has_picture = True
        self._damaged_key |= is_key

    def _forget_unit(self) -> None:
        self._parts.clear()
        self._headers.clear()
        self._starts.clear()
        self._middle = _NEVER
        self._in_fragments = False
        self._unit_weight = 0
        self._damaged = self._damaged_key = False
        self._has_picture = self._has_key = self._has_sets = self._has_filler = False

    def _drop_damaged(self) -> None:
        self.damaged_units += 1
        if self._damaged_key or self._has_key:
            self._wait_key = True
        self._forget_unit()

    def _end(self) -> None:
        """The unit in progress is complete, or damaged."""
        self.seen_units += 1
        self.last_unit_s = self.received_s
        self.highest_sequence = self._extend(self._next_sequence - 1 & 0xFFFF)
        if self._damaged or (self._in_fragments and self._end_bits_seen) or len(self._starts) > MAX_UNIT_NALS:
            self._drop_damaged()
            return
        is_key = self._has_key
        if self._has_sets or is_key or self._has_filler:
            data, offsets = self._rearranged(is_key)
        else:
            parts = self._parts
            data = b"".join(parts)
            starts = self._starts
            if len(starts) == 1:
                offsets = (0,)
            else:
                ends = list(accumulate(map(len, parts), initial=0))
                offsets = tuple([ends[start] for start in starts])
        self._forget_unit()
        form = self.sets.format
        if form is None or (self._wait_key and not is_key):
            self.undecodable_units += 1
            return
        self._wait_key = False
        pts, dts, wall_s, broken = self._timeline.stamp(int.from_bytes(self._stamp[:4], "big"), self.received_s)
        lost, self._unit_lost = self._unit_lost, 0
        self.units += 1
        self.media_bytes += len(data)
        # The timeline may have just found a deeper reordering, so the format is read anew.
        form = self.sets.format or form
        self._on_unit(AccessUnit(data, offsets, pts, dts, is_key, wall_s, self.received_s, form, lost, broken))

    def _extend(self, sequence: int) -> int:
        highest = self.highest_sequence
        step = (sequence - highest) & 0xFFFF
        return highest + step if step < 0x8000 else highest

    def _rearranged(self, is_key: bool) -> tuple[bytes, tuple[int, ...]]:
        """A unit that holds parameter sets, or must: learn them, put all of them in front of a keyframe."""
        parts, starts = self._parts, [*self._starts, len(self._parts)]
        nals = [b"".join(parts[a:b]) for a, b in pairwise(starts)]
        sets: list[bytes] = []
        rest: list[bytes] = []
        for kind, nal in zip(self._headers, nals, strict=True):
            if self._is_set(kind):
                # Some cameras put several sets with start codes between them into one NAL unit.
                sets += split_annex_b(nal) if len(nal) <= 4 * MAX_SET_BYTES else []
                if not is_key:
                    rest.append(nal)
            elif not self._is_filler(kind) and not (is_key and self._is_delimiter(kind)):
                rest.append(nal)
        if sets:
            self.in_band_sets += len(sets)
            self.learn(sets)
        if is_key:
            prefix, at = self.sets.prefix, self.sets.prefix_offsets
        else:
            prefix, at = b"", ()
        ends = list(accumulate(map(len, rest), initial=len(prefix)))
        return prefix + b"".join(rest), (*at, *ends[:-1])

    def _is_set(self, kind: int) -> bool:
        raise NotImplementedError

    def _is_filler(self, kind: int) -> bool:
        raise NotImplementedError

    def _is_delimiter(self, kind: int) -> bool:
        raise NotImplementedError


class H264Depacketiser(Depacketiser):
    """RFC 6184 modes 0 and 1: single NAL units, STAP-A, FU-A."""

    def _payload(self, d: bytes, s: int, e: int) -> None:
        header = d[s]
        kind = header & 0x1F
        if kind == 28:
            if e - s < 3:
                self._bad_payload()
                return
            fragment = d[s + 1]
            if fragment & 0x80:
                inner = fragment & 0x1F
                self._nal(inner, (header & 0xE0) | inner, d[s + 2])
                self._parts.append(d[s + 2 : e])
                self._in_fragments = not fragment & 0x40
                if self._in_fragments:
                    self._middle, self._final = bytes((header, inner)), bytes((header, inner | 0x40))
                    self._middle_bytes = 2
            elif self._in_fragments:
                self._parts.append(d[s + 2 : e])
                if fragment & 0x40:
                    self._end_fragments()
            else:
                self._orphan_fragment(fragment & 0x1F == 5)
            return
        if self._in_fragments:
            self._damage()
        if 1 <= kind <= 23:
            self._nal(kind, header, d[s + 1] if e - s > 1 else 0)
            self._parts.append(d[s + 1 : e])
        elif kind == 24:
            self._aggregate(d, s + 1, e)
        elif kind == 0:
            self._annex_b(d[s:e])
        else:
            self._bad_payload()

    def _nal(self, kind: int, header: int, following: int) -> None:
        self._begin_nal(kind, _STARTS_H264[header])
        if kind <= 5:
            if kind == 5:
                self._has_key = True
            if not self._has_picture:
                self._picture(following & 0x80 != 0 or kind in (3, 4))
        elif kind in (7, 8, 13, 15):
            self._has_sets = True
        elif kind == 12:
            self._has_filler = True

    def _aggregate(self, d: bytes, s: int, e: int) -> None:
        while s + 2 < e:
            size = d[s] << 8 | d[s + 1]
            s += 2
            if not size or s + size > e:
                self._bad_payload()
                return
            kind = d[s] & 0x1F
            if 1 <= kind <= 23:
                self._nal(kind, d[s], d[s + 1] if size > 1 else 0)
                self._parts.append(d[s + 1 : s + size])
            else:
                self._bad_payload()
                return
            s += size

    def _annex_b(self, payload: bytes) -> None:
        """Some cameras send start codes within RTP."""
        nals = split_annex_b(payload) if payload.startswith((b"\0\0\0\1", b"\0\0\1")) else []
        if not nals:
            self._bad_payload()
        for nal in nals[:MAX_UNIT_NALS]:
            if 1 <= nal[0] & 0x1F <= 23:
                self._nal(nal[0] & 0x1F, nal[0], nal[1] if len(nal) > 1 else 0)
                self._parts.append(nal[1:])

    def _is_set(self, kind: int) -> bool:
        return kind in (7, 8)

    def _is_filler(self, kind: int) -> bool:
        return kind == 12

    def _is_delimiter(self, kind: int) -> bool:
        return kind == 9


class H265Depacketiser(Depacketiser):
    """RFC 7798 without DON: single NAL units, AP, FU. (PACI is in nobody's camera and counts as a bad packet.)"""

    def _payload(self, d: bytes, s: int, e: int) -> None:
        if e - s < 3:
            self._bad_payload()
            return
        header = d[s]
        kind = header >> 1 & 0x3F
        if kind == 49:
            if e - s < 4:
                self._bad_payload()
                return
            fragment = d[s + 2]
            inner = fragment & 0x3F
            if fragment & 0x80:
                self._nal(inner, header & 0x81 | inner << 1, d[s + 1], d[s + 3])
                self._parts.append(d[s + 3 : e])
                self._in_fragments = not fragment & 0x40
                if self._in_fragments:
                    self._middle = bytes((header, d[s + 1], inner))
                    self._final = bytes((header, d[s + 1], inner | 0x40))
                    self._middle_bytes = 3
            elif self._in_fragments:
                self._parts.append(d[s + 3 : e])
                if fragment & 0x40:
                    self._end_fragments()
            else:
                self._orphan_fragment(16 <= inner <= 23)
            return
        if self._in_fragments:
            self._damage()
        if kind < 48:
            self._nal(kind, header, d[s + 1], d[s + 2])
            self._parts.append(d[s + 2 : e])
        elif kind == 48:
            self._aggregate(d, s + 2, e)
        else:
            self._bad_payload()

    def _nal(self, kind: int, first: int, second: int, following: int) -> None:
        self._begin_nal(kind, START_CODE + bytes((first, second)))
        if kind < 32:
            if 16 <= kind <= 23:
                self._has_key = True
            if not self._has_picture:
                self._picture(following & 0x80 != 0)
        elif kind <= 34:
            self._has_sets = True
        elif kind == 38:
            self._has_filler = True

    def _aggregate(self, d: bytes, s: int, e: int) -> None:
        while s + 2 < e:
            size = d[s] << 8 | d[s + 1]
            s += 2
            if size < 3 or s + size > e or d[s] >> 1 & 0x3F >= 48:
                self._bad_payload()
                return
            self._nal(d[s] >> 1 & 0x3F, d[s], d[s + 1], d[s + 2])
            self._parts.append(d[s + 2 : s + size])
            s += size

    def _is_set(self, kind: int) -> bool:
        return 32 <= kind <= 34

    def _is_filler(self, kind: int) -> bool:
        return kind == 38

    def _is_delimiter(self, kind: int) -> bool:
        return kind == 35


@lru_cache(maxsize=256)
def _frames_of(length: int, middle_bytes: int) -> Callable[[memoryview], Iterator[tuple[bytes, int, bytes, bytes]]]:
    """Takes interleaved frames of one length apart: opening, sequence, stamp with fragment header, payload."""
    return struct.Struct(f">6sH{8 + middle_bytes}s{length - 12 - middle_bytes}s").iter_unpack


def depacketiser_for(
    payload_type: int, sets: ParameterSets, timeline: Timeline, on_unit: Callable[[AccessUnit], None]
) -> Depacketiser:
    """The depacketiser of the sets' codec."""
    kind = H264Depacketiser if sets.codec == "h264" else H265Depacketiser
    return kind(payload_type, sets, timeline, on_unit)
