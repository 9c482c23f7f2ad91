"""A feed: one stream of one camera as it leaves the camera, the same bytes to all who watch it.

Life cycle: idle until the first client plays; then it starts at a keyframe with a fresh SSRC, sequence number and RTP
time, sends access unit after access unit at their time, each spread over its interval as a camera does, and is idle
again when nobody is left. The clip's place follows the town's clock also while idle, so main, sub and the known
times of a scene stay together. In the bad case (a client does not read) that client loses whole frames up to the next
keyframe, counted, and nobody else notices.
"""

from __future__ import annotations

import os
import random
import struct
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ingest.access_unit import StreamName
from ingest.simulate.camera import StreamQuery, Variant, find_clip
from ingest.simulate.fault import Fault, FaultKind, TimedFault
from ingest.simulate.frame_number import SOURCE_BYTES, NumberEncoder, encode_64, source_hash
from ingest.simulate.packetiser import INTERLEAVED_BYTES, SEQUENCE_AT, PacketisedUnit

if TYPE_CHECKING:
    from ingest.simulate.clip import Clip
    from ingest.simulate.clips import ClipLibrary
    from ingest.simulate.live_camera import LiveCamera
    from ingest.simulate.pacer import Pacer

_SPREAD: Final = 0.8  # share of the frame interval over which its packets are sent
_LONGEST_SPREAD_S: Final = 0.04
_PACKETS_AT_ONCE: Final = 10  # an encoder's burst: below this a frame is not spread further
_LONGEST_WAIT_S: Final = 2.1  # for the next keyframe; longer GOPs start at the last one instead and lag
_SENDER_REPORT_EVERY_S: Final = 5.0
_NTP_EPOCH: Final = 2208988800
_WRAP_LEAD_S: Final = 10
_SLOW_QUEUE_S: Final = 2.0  # what a throttled camera holds back before it drops frames

_patch = struct.Struct(">HII").pack_into


class Client(Protocol):
    """Somebody who plays. `ready` is False while he does not read."""

    waits_for_keyframe: bool

    @property
    def ready(self) -> bool: ...

    def send(self, packets: bytes | memoryview, offsets: tuple[int, ...], base: int = 0) -> None:
        """Interleaved packets; `offsets` less `base` says where each starts."""
        ...

    def send_report(self, report: bytes) -> None:
        """An RTCP sender report."""
        ...

    def send_raw(self, data: bytes) -> None:
        """Bytes that are no packets."""
        ...

    def hang_up(self) -> None:
        """End the connection after what was written."""
        ...


@dataclass(slots=True)
class StreamCounters:
    """What one stream of one camera has sent, over all sessions; only grows."""

    frames_sent: int = 0  # frames that left for at least one client
    packets_sent: int = 0
    bytes_sent: int = 0
    packets_lost: int = 0  # by the fault "loss"
    frames_dropped: int = 0  # because a client did not read or a slow line was full
    last_number: int = -1


class _Burst(NamedTuple):
    clients: tuple[Client, ...]
    packets: bytes | memoryview
    offsets: tuple[int, ...]
    base: int = 0


@dataclass(frozen=True, slots=True)
class FirstPacket:
    """Sequence number and RTP time of the first packet that a client will get."""

    sequence: int
    rtp_time: int


@dataclass(eq=False)
class Feed:
    """See the module. `query` is canonical; feeds with a query of their own have a mark source of their own."""

    camera: LiveCamera
    stream: StreamName
    query_text: str
    query: StreamQuery
    clip: Clip
    library: ClipLibrary
    pacer: Pacer
    counters: StreamCounters
    _clients: list[Client] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.camera.config
        self.home = self.clip
        self.variant: Variant = self.query.variant(config.variant)
        self.source = source_hash(config.id, self.stream, self.query_text)
        self._source_bytes = encode_64(self.source)
        self._numbers = NumberEncoder()
        self._rng = random.Random(self.source)  # noqa: S311 - repeatable on purpose
        self._running = False
        self._number = self.camera.first_frame_number - 1
        self._url_fault: TimedFault | None = None
        self._fault: Fault | None = None

    @property
    def playing(self) -> int:
        """How many clients play."""
        return len(self._clients)

    def clip_sdp(self) -> str:
        """The stream's session description."""
        return self.home.sdp(self.source & 0x7FFFFFFF, self.variant.parameter_sets)

    def attach(self, client: Client, now_s: float) -> FirstPacket | None:
        """Let a client play. The answer is None when it joins a feed that runs: it starts at the next keyframe."""
        self._clients.append(client)
        client.waits_for_keyframe = self.variant.start == "keyframe"
        if self._running:
            return None
        self._begin(now_s)
        client.waits_for_keyframe = False
        first = self.clip.units[self._index]
        return FirstPacket(self._sequence, self._rtp_time(first))

    def detach(self, client: Client) -> None:
        """Forget a client; unknown ones are ignored."""
        if client in self._clients:
            self._clients.remove(client)

    def hang_up(self) -> None:
        """End all connections that play this feed."""
        for client in tuple(self._clients):
            client.hang_up()

    # the clock and the loop

    def _begin(self, now_s: float) -> None:
        self.clip = self.home
        self._fault = None
        self._origin_s = now_s
        self._jump_90k = 0
        self._uplink_free_s = self._quiet_until_s = self._next_report_s = now_s
        self._packets = self._octets = 0
        self._ssrc = self._rng.getrandbits(32)
        self._sequence = self._rng.getrandbits(16)
        self._rtp_base = self._rng.getrandbits(32)
        self._align(now_s, self.variant.start == "anywhere")
        fault = self.query.timed_fault
        self._url_fault = None if fault is None else TimedFault(fault, self._due_s())
        if self.variant.near_wrap:
            self._sequence = -self._packets_within(_WRAP_LEAD_S) & 0xFFFF
            first = self.clip.units[self._index]
            self._rtp_base = -_WRAP_LEAD_S * 90000 - self._loop_base_90k - first.pts_90k & 0xFFFFFFFF
        self._running = True
        self._schedule()

    def _align(self, now_s: float, anywhere: bool = False) -> None:
        """Go to the clip's unit that the town's clock says, at a keyframe unless `anywhere`."""
        clip, units = self.home, self.home.units
        zero = units[0].dts_90k
        turns, place = divmod(round(self.camera.scene_time_s(now_s) * 90000), clip.duration_90k)
        starts = range(len(units)) if anywhere else clip.keyframes
        at = bisect_left(starts, place, key=lambda index: units[index].dts_90k - zero)
        next_90k = units[starts[at]].dts_90k - zero if at < len(starts) else clip.duration_90k
        wait_s = (next_90k - place) / 90000
        if wait_s > _LONGEST_WAIT_S:
            index, wait_s = starts[at - 1], 0.0
        elif at < len(starts):
            index = starts[at]
        else:
            index, turns = starts[0], turns + 1
        self._number = max(self._number + 1, self.camera.first_frame_number + turns * len(units) + index) - 1
        self._seek(clip, index, now_s + wait_s)

    def _packets_within(self, span_s: float) -> int:
        """How many packets the clip sends from here within a time."""
        units = self.clip.units
        turns, rest = divmod(round(span_s * 90000), self.clip.duration_90k)
        packets = turns * sum(len(unit.packet_offsets) for unit in units)
        for unit in units[self._index :] + units[: self._index]:
            if (unit.dts_90k - units[self._index].dts_90k) % self.clip.duration_90k < rest:
                packets += len(unit.packet_offsets)
        return packets

    def _seek(self, clip: Clip, index: int, due_s: float) -> None:
        """Play `clip` from `index` at `due_s`; media time goes on as the clock does."""
        self.clip, self._index = clip, index
        self._loop_base_90k = round((due_s - self._origin_s) * 90000) - clip.units[index].dts_90k

    def _due_s(self) -> float:
        return self._origin_s + (self._loop_base_90k + self.clip.units[self._index].dts_90k) / 90000

    def _rtp_time(self, unit: PacketisedUnit) -> int:
        return self._rtp_base + self._jump_90k + self._loop_base_90k + unit.pts_90k & 0xFFFFFFFF

    def _schedule(self) -> None:
        self.pacer.at(self._due_s(), self._tick, None)

    def _advance(self) -> float:
        """Go to the next unit; the interval until it, in seconds."""
        before = self.clip.units[self._index].dts_90k
        self._index += 1
        if self._index == len(self.clip.units):
            self._index = 0
            self._loop_base_90k += self.clip.duration_90k
            before -= self.clip.duration_90k
        return (self.clip.units[self._index].dts_90k - before) / 90000

    # one frame

    def _tick(self, _: None) -> None:
        if not self._clients:
            self._running = False
            return
        due_s = self._due_s()
        fault = self._fault_at(due_s) if self._url_fault or self.camera.fault else None
        if fault is not self._fault:
            self._change_fault(fault, due_s)
            if self._due_s() > due_s + 0.001:
                self._schedule()
                return
        unit = self.clip.units[self._index]
        rtp_time = self._rtp_time(unit)
        interval_s = self._advance()
        self._number += 1
        if due_s < self._quiet_until_s:
            pass
        elif fault is None:
            self._send(unit, rtp_time, due_s, interval_s)
        else:
            self._send_faulty(fault, unit, rtp_time, due_s, interval_s)
        if due_s >= self._next_report_s and (fault is None or fault.kind is not FaultKind.FREEZE):
            self._report(due_s)
        self._schedule()

    def _encode(self, unit: PacketisedUnit, rtp_time: int) -> tuple[bytes | memoryview, tuple[int, ...]]:
        buffer = bytearray(unit.template)
        sequence, ssrc = self._sequence, self._ssrc
        at = unit.source_at
        buffer[at : at + SOURCE_BYTES] = self._source_bytes
        buffer[at + SOURCE_BYTES : at + 2 * SOURCE_BYTES] = self._numbers.encode(self._number)
        offsets = unit.packet_offsets
        if unit.parameter_packets and self.variant.parameter_sets == "sdp":
            skipped = offsets[unit.parameter_packets]
            offsets = tuple(offset - skipped for offset in offsets[unit.parameter_packets :])
            buffer = buffer[skipped:]
        for offset in offsets:
            _patch(buffer, offset + SEQUENCE_AT, sequence & 0xFFFF, rtp_time, ssrc)
            sequence += 1
        self._sequence = sequence & 0xFFFF
        self._packets += len(offsets)
        self._octets += len(buffer) - (INTERLEAVED_BYTES + 12) * len(offsets)
        return memoryview(buffer), offsets

    def _receivers(self, unit: PacketisedUnit) -> tuple[Client, ...]:
        receivers: list[Client] = []
        for client in self._clients:
            if client.waits_for_keyframe and not unit.is_keyframe:
                continue
            if client.ready:
                client.waits_for_keyframe = False
                receivers.append(client)
            else:
                client.waits_for_keyframe = True
                self.counters.frames_dropped += 1
        return tuple(receivers)

    def _count(self, packets: bytes | memoryview, offsets: tuple[int, ...]) -> None:
        counters = self.counters
        counters.frames_sent += 1
        counters.packets_sent += len(offsets)
        counters.bytes_sent += len(packets)
        counters.last_number = self._number

    def _send(self, unit: PacketisedUnit, rtp_time: int, due_s: float, interval_s: float) -> None:
        receivers = self._receivers(unit)
        packets, offsets = self._encode(unit, rtp_time)
        if receivers:
            self._count(packets, offsets)
            self._spread(receivers, packets, offsets, due_s, interval_s)

    def _spread(
        self,
        receivers: tuple[Client, ...],
        packets: bytes | memoryview,
        offsets: tuple[int, ...],
        due_s: float,
        interval_s: float,
    ) -> None:
        """Hand a frame's packets out over its interval, in order, never mixed with the next frame's."""
        count = len(offsets)
        span_s = min(interval_s, _LONGEST_SPREAD_S) * _SPREAD
        bursts = max(1, min(-(-count // _PACKETS_AT_ONCE), int(span_s / 0.005)))
        if bursts == 1:
            self._deliver(_Burst(receivers, packets, offsets))
            return
        size = -(-count // bursts)
        view = memoryview(packets)
        for number, first in enumerate(range(0, count, size)):
            start = offsets[first]
            end = offsets[first + size] if first + size < count else len(packets)
            burst = _Burst(receivers, view[start:end], offsets[first : first + size], start)
            if number:
                self.pacer.at(due_s + span_s * number / bursts, self._deliver, burst)
            else:
                self._deliver(burst)

    @staticmethod
    def _deliver(burst: _Burst) -> None:
        clients, packets, offsets, base = burst
        for client in clients:
            client.send(packets, offsets, base)

    def _report(self, now_s: float) -> None:
        """A sender report (RFC 3550 6.4.1): the camera's own clock against RTP time."""
        self._next_report_s = now_s + _SENDER_REPORT_EVERY_S
        ntp = time.time() + _NTP_EPOCH + self.camera.config.clock_offset_s
        rtp = self._rtp_base + self._jump_90k + round((now_s - self._origin_s) * 90000) & 0xFFFFFFFF
        body = struct.pack(
            ">BBHIIIIII",
            0x80,
            200,
            6,
            self._ssrc,
            int(ntp) & 0xFFFFFFFF,
            int(ntp % 1 * 2**32),
            rtp,
            self._packets & 0xFFFFFFFF,
            self._octets & 0xFFFFFFFF,
        )
        for client in self._clients:
            if client.ready and not client.waits_for_keyframe:
                client.send_report(body)

    # faults

    def _fault_at(self, now_s: float) -> Fault | None:
        for timed in (self._url_fault, self.camera.fault):
            if timed is None or not timed.active(now_s):
                continue
            if timed.fault.stream in (None, self.stream):
                return timed.fault
        return None

    def _change_fault(self, fault: Fault | None, due_s: float) -> None:
        before, self._fault = self._fault, fault
        if before is not None and before.kind in (FaultKind.FREEZE, FaultKind.SLOW, FaultKind.GARBAGE):
            for client in self._clients:
                client.waits_for_keyframe = True
        if before is not None and before.kind is FaultKind.SLOW:
            self._quiet_until_s = self._uplink_free_s + before.delay_ms / 1000  # what is still under way comes first
        if fault is None:
            if self.clip is not self.home or (before is not None and before.kind is FaultKind.FREEZE):
                self._align(due_s)
            return
        self._uplink_free_s = due_s
        match fault.kind:
            case FaultKind.JUMP:
                self._jump_90k += round(fault.by_s * 90000)
            case FaultKind.FROZEN_PICTURE | FaultKind.BLACK_PICTURE | FaultKind.RESOLUTION:
                if (other := self._other_clip(fault.kind)) is not None:
                    self._seek(other, 0, due_s)
            case FaultKind.REFUSE:
                self.hang_up()

    def _other_clip(self, kind: FaultKind) -> Clip | None:
        """The clip that a picture fault shows; other codecs never, since a session's format is in its SDP."""
        clips = self.library
        if kind is not FaultKind.RESOLUTION:
            return clips.get("still" if kind is FaultKind.FROZEN_PICTURE else "black", self.home.profile)
        for profile in clips.profiles():
            if profile.codec == self.home.codec and (profile.width, profile.height) != (
                self.home.width,
                self.home.height,
            ):
                return clips.get(self.home.scene, profile.name)
        return None

    def _send_faulty(self, fault: Fault, unit: PacketisedUnit, rtp_time: int, due_s: float, interval_s: float) -> None:
        match fault.kind:
            case FaultKind.FREEZE | FaultKind.HANG | FaultKind.SILENT:
                return
            case FaultKind.REFUSE:
                self.hang_up()
            case FaultKind.GARBAGE:
                noise = os.urandom(min(len(unit.template), 4096))
                for client in self._receivers(unit):
                    client.send_raw(noise)
            case FaultKind.CUT:
                self._cut(unit, rtp_time)
            case FaultKind.LOSS:
                self._send_with_loss(fault, unit, rtp_time, due_s, interval_s)
            case FaultKind.SLOW:
                self._send_slowly(fault, unit, rtp_time, due_s)
            case _:
                self._send(unit, rtp_time, due_s, interval_s)

    def _cut(self, unit: PacketisedUnit, rtp_time: int) -> None:
        receivers = self._receivers(unit)
        if not receivers:
            return
        packets, _ = self._encode(unit, rtp_time)
        half = bytes(packets[: len(packets) // 2])
        for client in receivers:
            client.send_raw(half)
            client.hang_up()

    def _send_with_loss(
        self, fault: Fault, unit: PacketisedUnit, rtp_time: int, due_s: float, interval_s: float
    ) -> None:
        receivers = self._receivers(unit)
        packets, offsets = self._encode(unit, rtp_time)
        ends = (*offsets[1:], len(packets))
        kept = [
            bytes(packets[start:end])
            for start, end in zip(offsets, ends, strict=True)
            if self._rng.random() * 100 >= fault.percent
        ]
        self.counters.packets_lost += len(offsets) - len(kept)
        if not receivers or not kept:
            return
        lengths = [0]
        for packet in kept[:-1]:
            lengths.append(lengths[-1] + len(packet))
        data = b"".join(kept)
        self._count(data, tuple(lengths))
        self._spread(receivers, data, tuple(lengths), due_s, interval_s)

    def _send_slowly(self, fault: Fault, unit: PacketisedUnit, rtp_time: int, due_s: float) -> None:
        if self._uplink_free_s - due_s > _SLOW_QUEUE_S:
            self.counters.frames_dropped += 1
            for client in self._clients:
                client.waits_for_keyframe = True
            return
        receivers = self._receivers(unit)
        if not receivers:
            return
        packets, offsets = self._encode(unit, rtp_time)
        self._count(packets, offsets)
        self._uplink_free_s = max(self._uplink_free_s, due_s)
        ends = (*offsets[1:], len(packets))
        for start, end in zip(offsets, ends, strict=True):
            if fault.bps is not None:
                self._uplink_free_s += (end - start) * 8 / fault.bps
            burst = _Burst(receivers, packets[start:end], (0,))
            self.pacer.at(self._uplink_free_s + fault.delay_ms / 1000, self._deliver, burst)


def open_feed(camera: LiveCamera, stream: StreamName, query_text: str, query: StreamQuery) -> Feed | None:
    """A feed for a request, or None when the camera has no such stream."""
    clip = find_clip(camera.library, camera.config, stream, query)
    if clip is None:
        return None
    return Feed(camera, stream, query_text, query, clip, camera.library, camera.pacer, camera.counters[stream])
