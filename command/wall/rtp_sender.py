"""Sends one viewer what the shared source has packetised: RTP header, encryption, retransmission, sender reports.

Stands in an aiortc transceiver in place of its `RTCRtpSender`, which builds and serialises every packet from objects
and sends a whole keyframe or GOP in one burst; this one writes the header in front of the shared payload and paces.
ICE, DTLS, SRTP and RTCP parsing stay aiortc's. Life: made with the session, `send` once DTLS is up, `stop` at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import struct
import time
import uuid
from collections.abc import Callable

from aiortc import clock as aiortc_clock
from aiortc import rtp
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpSendParameters
from aiortc.stats import RTCStatsReport

from command.wall.live_source import REPLAY_WITHIN_S, LiveReader, LiveSource
from ingest.errors import GridwatchError

log = logging.getLogger(__name__)

HISTORY_PACKETS = 1024  # kept for retransmission; about 3 s of a 1080p stream
RETRANSMISSIONS_A_SECOND = 500
REPLAY_EVERY_S = 2.0  # a viewer that keeps losing pictures gets the cached GOP again at most this often
_PACE_PACKETS = 16  # sent in one go, then a pause: a receiver's socket buffer holds about 90
_PACE_PAUSE_S = 0.002  # so at most about 75 Mbit/s
_HEADER = struct.Struct("!BBHLL")


class PassThroughSender:
    """One viewer's outgoing video. Attribute names with `_` or camel case are those that aiortc looks for.

    Args:
        source: where the units come from; joined in `send`.
        transport: the DTLS transport of the transceiver that this sender goes into.
        on_end: called once with the reason code when sending ended by itself.
        silent_after_s: without any RTCP from the viewer for so long, it is taken for gone.
    """

    kind = "video"

    def __init__(
        self, source: LiveSource, transport: RTCDtlsTransport, on_end: Callable[[str], object], silent_after_s: float
    ) -> None:
        self._source = source
        self.transport = transport
        self._on_end = on_end
        self._silent_after_s = silent_after_s
        self._ssrc = secrets.randbits(32)
        self._rtx_ssrc = secrets.randbits(32)
        self._stream_id = str(uuid.uuid4())
        self._track_id = str(uuid.uuid4())
        self._enabled = True
        self.track = None
        self._reader: LiveReader | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._history: list[bytes | None] = [None] * HISTORY_PACKETS
        # The lower half: an early wrap of the sequence number makes some receivers lose SRTP's roll-over counter.
        self._sequence = secrets.randbits(15)
        self._origin = secrets.randbits(32)
        self._rtp_time = 0
        self._sent_at_ntp = 0
        self._cname = ""
        self._extension = b""
        self._payload_type = 0
        self._rtx_payload_type: int | None = None
        self._rtx_sequence = secrets.randbits(15)
        self._retransmission_second = 0
        self._retransmissions_left = 0
        self._replayed_s = 0.0
        self._heard_s = 0.0
        self.packets = 0
        self.bytes = 0
        self.retransmitted = 0
        self.keyframe_requests = 0
        self.replays = 0
        self.fraction_lost = 0.0

    def setTransport(self, transport: RTCDtlsTransport) -> None:  # noqa: N802
        """Called by aiortc when the media section is bundled onto another transport."""
        self.transport = transport

    async def getStats(self) -> RTCStatsReport:  # noqa: N802
        """Nothing beyond the session's own counters, which `/stats` shows."""
        return RTCStatsReport()

    @property
    def dropped_units(self) -> int:
        """Units this viewer was too slow for."""
        return 0 if self._reader is None else self._reader.dropped_units

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        """Called by aiortc once DTLS is up (maybe twice): join the source and send until `stop`."""
        if self._tasks:
            return
        codec = parameters.codecs[0]
        assert codec.payloadType is not None
        self._payload_type = codec.payloadType
        for other in parameters.codecs[1:]:
            if other.name.lower() == "rtx" and other.parameters.get("apt") == codec.payloadType:
                self._rtx_payload_type = other.payloadType
        self._cname = parameters.rtcp.cname or ""
        extensions = rtp.HeaderExtensionsMap()
        extensions.configure(parameters)
        profile, value = extensions.set(rtp.HeaderExtensions(mid=parameters.muxId))
        if value:
            self._extension = struct.pack("!HH", profile, len(value) >> 2) + value
        self.transport._register_rtp_sender(self, parameters)
        self._heard_s = time.monotonic()
        self._reader = self._source.join()
        self._tasks = [
            asyncio.create_task(self._run_rtp(self._reader), name=f"rtp {self._source.camera}"),
            asyncio.create_task(self._run_rtcp(), name=f"rtcp {self._source.camera}"),
        ]

    async def stop(self) -> None:
        """End sending, say BYE, leave the source. May be called more than once, and without `send`."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert self._reader is not None
        self._source.leave(self._reader)
        with contextlib.suppress(ConnectionError):
            await self.transport._send_rtp(bytes(rtp.RtcpByePacket(sources=[self._ssrc])))
        self.transport._unregister_rtp_sender(self)

    async def _handle_rtcp_packet(self, packet: rtp.AnyRtcpPacket) -> None:
        self._heard_s = time.monotonic()
        if isinstance(packet, rtp.RtcpRrPacket | rtp.RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == self._ssrc:
                    self.fraction_lost = report.fraction_lost / 256
        elif isinstance(packet, rtp.RtcpRtpfbPacket) and packet.fmt == rtp.RTCP_RTPFB_NACK:
            for sequence in packet.lost:
                await self._retransmit(sequence)
        elif isinstance(packet, rtp.RtcpPsfbPacket) and packet.fmt in (rtp.RTCP_PSFB_PLI, rtp.RTCP_PSFB_FIR):
            self.keyframe_requests += 1
            if self._reader is not None and self._heard_s - self._replayed_s >= REPLAY_EVERY_S:
                self._replayed_s = self._heard_s
                self.replays += 1
                self._reader.restart(REPLAY_WITHIN_S)

    async def _run_rtp(self, reader: LiveReader) -> None:
        reason = "connection_lost"
        in_a_row = 0
        self._replayed_s = time.monotonic()
        try:
            while True:
                unit, timestamp = await reader.get()
                rtp_time = (timestamp + self._origin) & 0xFFFFFFFF
                last = len(unit.payloads) - 1
                for number, payload in enumerate(unit.payloads):
                    await self._send(payload, rtp_time, marker=number == last)
                    in_a_row += 1
                    if in_a_row >= _PACE_PACKETS:
                        in_a_row = 0
                        await asyncio.sleep(_PACE_PAUSE_S)
                self._rtp_time, self._sent_at_ntp = rtp_time, aiortc_clock.current_ntp_time()
                if not reader.behind:
                    in_a_row = 0
        except ConnectionError:
            pass
        except GridwatchError as error:
            reason = error.code
        except Exception:
            log.exception("sending failed", extra={"camera": self._source.camera})
            reason = "sender_failed"
        self._on_end(reason)

    async def _send(self, payload: bytes, rtp_time: int, *, marker: bool) -> None:
        sequence = self._sequence
        self._sequence = (sequence + 1) & 0xFFFF
        extension = self._extension
        packet = (
            _HEADER.pack(
                0x90 if extension else 0x80,
                self._payload_type | 0x80 if marker else self._payload_type,
                sequence,
                rtp_time,
                self._ssrc,
            )
            + extension
            + payload
        )
        self._history[sequence % HISTORY_PACKETS] = packet
        self.packets += 1
        self.bytes += len(payload)
        await self.transport._send_rtp(packet)

    async def _retransmit(self, sequence: int) -> None:
        """Send a lost packet again, as RTX (RFC 4588) where negotiated; bounded a second."""
        packet = self._history[sequence % HISTORY_PACKETS]
        if packet is None or int.from_bytes(packet[2:4], "big") != sequence:
            return
        second = int(self._heard_s)
        if second != self._retransmission_second:
            self._retransmission_second, self._retransmissions_left = second, RETRANSMISSIONS_A_SECOND
        if self._retransmissions_left == 0:
            return
        self._retransmissions_left -= 1
        self.retransmitted += 1
        if self._rtx_payload_type is not None:
            header_bytes = _HEADER.size + len(self._extension)
            packet = b"".join(
                (
                    packet[:1],
                    bytes((packet[1] & 0x80 | self._rtx_payload_type,)),
                    self._rtx_sequence.to_bytes(2, "big"),
                    packet[4:8],
                    self._rtx_ssrc.to_bytes(4, "big"),
                    self._extension,
                    packet[2:4],
                    packet[header_bytes:],
                )
            )
            self._rtx_sequence = (self._rtx_sequence + 1) & 0xFFFF
        with contextlib.suppress(ConnectionError):
            await self.transport._send_rtp(packet)

    async def _run_rtcp(self) -> None:
        """Sender reports every 0.5 to 1.5 s, and the check that the viewer still answers."""
        while True:
            await asyncio.sleep(0.5 + random.random())  # noqa: S311 - spreads the load, guards nothing
            if time.monotonic() - self._heard_s > self._silent_after_s:
                self._on_end("viewer_silent")
                return
            report = rtp.RtcpSrPacket(
                ssrc=self._ssrc,
                sender_info=rtp.RtcpSenderInfo(
                    ntp_timestamp=self._sent_at_ntp,
                    rtp_timestamp=self._rtp_time,
                    packet_count=self.packets & 0xFFFFFFFF,
                    octet_count=self.bytes & 0xFFFFFFFF,
                ),
            )
            name = rtp.RtcpSdesPacket(chunks=[rtp.RtcpSourceInfo(ssrc=self._ssrc, items=[(1, self._cname.encode())])])
            with contextlib.suppress(ConnectionError):
                await self.transport._send_rtp(bytes(report) + bytes(name))
