"""RTP and RTCP of one session over two UDP sockets: an even and the next odd port (RFC 3550 11), receiver reports.

Only datagrams from the camera's address count. Ports are opened towards the camera with an empty report, since some
routers and firewalls want to see the client speak first.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable
from functools import partial

from ingest.rtsp.depacketiser import Depacketiser
from ingest.rtsp.reorder import WAIT_S, ReorderWindow
from ingest.rtsp.rtcp import SenderReport, receiver_report

RECEIVE_BUFFER_BYTES = 2 << 20
REPORT_EVERY_S = 5.0
_PORT_TRIES = 64


class UdpReceiver:
    """Life: `open` binds, `receive` starts delivery, `close`. Counters are public."""

    def __init__(self, rtp: socket.socket, rtcp: socket.socket) -> None:
        self.ports: tuple[int, int] = (rtp.getsockname()[1], rtcp.getsockname()[1])
        self.buffer_bytes = rtp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        self.foreign_datagrams = 0
        self.window: ReorderWindow | None = None
        self._sockets = (rtp, rtcp)
        self._transports: list[asyncio.DatagramTransport] = []
        self._ticks: list[asyncio.TimerHandle] = []
        self._depacketiser: Depacketiser | None = None
        self._source = ""
        self._server_ports: tuple[int, int] | None = None
        self._on_rtcp: Callable[[bytes], None] = _ignore
        self._monotonic_s: Callable[[], float] = lambda: 0.0
        self._own_ssrc = random.getrandbits(32)
        self._last_report = 0
        self._last_report_s = 0.0
        self._reported = (0, 0)
        self._closed = False

    @classmethod
    async def open(cls, local_host: str) -> UdpReceiver:
        """Bind a pair of ports on the address that the camera is reached by.

        Raises:
            OSError: no pair is free.
        """
        family = socket.AF_INET6 if ":" in local_host else socket.AF_INET
        for _ in range(_PORT_TRIES):
            rtp = _bound(family, local_host, 0)
            port = rtp.getsockname()[1]
            rtcp = None
            with contextlib.suppress(OSError):
                rtcp = _bound(family, local_host, port + 1 if port % 2 == 0 else port - 1)
            if rtcp is None:
                rtp.close()
                continue
            receiver = cls(rtp, rtcp) if port % 2 == 0 else cls(rtcp, rtp)
            await receiver._start()
            return receiver
        raise OSError("no even and odd UDP port free side by side")

    def receive(
        self,
        depacketiser: Depacketiser,
        *,
        source: str,
        server_ports: tuple[int, int] | None,
        monotonic_s: Callable[[], float],
        on_rtcp: Callable[[bytes], None],
    ) -> None:
        """Deliver from now on."""
        self._depacketiser = depacketiser
        self._source = source
        self._server_ports = server_ports
        self._monotonic_s = monotonic_s
        self.window = ReorderWindow(depacketiser.packet)
        self._on_rtcp = on_rtcp
        if server_ports is not None:
            hello = b"\x80\xc9\x00\x01" + self._own_ssrc.to_bytes(4, "big")
            for transport, port in zip(self._transports, server_ports, strict=True):
                transport.sendto(hello, (source, port))
        self._later(WAIT_S, self._tick)
        self._later(REPORT_EVERY_S, self._report)

    def note_sender_report(self, report: SenderReport, now_s: float) -> None:
        """Echoed in the next receiver report."""
        self._last_report, self._last_report_s = report.ntp_middle, now_s

    def close(self) -> None:
        """Stop, and free the ports."""
        self._closed = True
        for tick in self._ticks:
            tick.cancel()
        for transport in self._transports:
            transport.abort()

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        receives = (self._receive_rtp, lambda data: self._on_rtcp(data))
        for sock, receive in zip(self._sockets, receives, strict=True):
            transport, _ = await loop.create_datagram_endpoint(partial(_Datagrams, self, receive), sock=sock)
            self._transports.append(transport)

    def accept(self, data: bytes, host: str, receive: Callable[[bytes], None]) -> None:
        """One datagram from `host`."""
        if host != self._source:
            self.foreign_datagrams += 1
            return
        receive(data)

    def _receive_rtp(self, data: bytes) -> None:
        depacketiser, window = self._depacketiser, self.window
        if depacketiser is None or window is None:
            return
        depacketiser.received_s = now_s = self._monotonic_s()
        window.add(data, now_s)
        depacketiser.chunk_done()

    def _tick(self) -> None:
        assert self.window is not None
        self.window.tick(self._monotonic_s())
        self._later(WAIT_S, self._tick)

    def _report(self) -> None:
        depacketiser = self._depacketiser
        assert depacketiser is not None
        if self._server_ports is not None and depacketiser.packets:
            lost, packets = depacketiser.lost_packets, depacketiser.packets
            lost_now, came_now = lost - self._reported[0], packets - self._reported[1]
            self._reported = (lost, packets)
            expected = lost_now + came_now
            delay = int((self._monotonic_s() - self._last_report_s) * 65536) if self._last_report else 0
            report = receiver_report(
                self._own_ssrc,
                depacketiser.ssrc,
                lost_now * 256 // expected if expected > 0 else 0,
                lost,
                depacketiser.highest_sequence,
                0,
                self._last_report,
                delay,
            )
            self._transports[1].sendto(report, (self._source, self._server_ports[1]))
        self._later(REPORT_EVERY_S, self._report)

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        self._ticks = [tick for tick in self._ticks if tick.when() > loop.time() and not tick.cancelled()]
        self._ticks.append(loop.call_later(delay_s, call))


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, receiver: UdpReceiver, receive: Callable[[bytes], None]) -> None:
        self._receiver = receiver
        self._receive = receive

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._receiver.accept(data, addr[0], self._receive)

    def error_received(self, exc: Exception) -> None:
        """ICMP "port unreachable" from a camera that is gone: the link's watch on frames tells."""


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _ignore(packet: bytes) -> None:
    """Before PLAY reports mean nothing."""
