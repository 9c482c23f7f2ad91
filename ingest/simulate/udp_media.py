"""The UDP side of all simulated cameras: RTP on an even port and RTCP on the next (RFC 3550 11)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

from ingest.errors import GridwatchError

if TYPE_CHECKING:
    from ingest.simulate.rtsp_connection import RtspConnection

_TRIES: Final = 50
_SEND_BUFFER_BYTES: Final = 4 << 20


class UdpMedia:
    """Sends without waiting: what the kernel does not take is lost. `heard` maps RTCP peers to sessions."""

    def __init__(self, host: str) -> None:
        self._rtp, self._rtcp = _bind_pair(host)
        self.rtp_port: int = self._rtp.getsockname()[1]
        self.heard: dict[tuple[str, int], RtspConnection] = {}
        self.packets_refused = 0

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen for receivers' reports: they keep a session alive."""
        loop.add_reader(self._rtcp.fileno(), self._read, loop)
        loop.add_reader(self._rtp.fileno(), self._discard)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close both sockets."""
        for sock in (self._rtp, self._rtcp):
            loop.remove_reader(sock.fileno())
            sock.close()

    def send_rtp(self, packet: bytes | memoryview, peer: tuple[str, int]) -> None:
        """One RTP packet."""
        try:
            self._rtp.sendto(packet, peer)
        except OSError:  # full buffer, or the peer's port has closed
            self.packets_refused += 1

    def send_rtcp(self, packet: bytes, peer: tuple[str, int]) -> None:
        """One RTCP packet."""
        try:
            self._rtcp.sendto(packet, peer)
        except OSError:
            self.packets_refused += 1

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(OSError):
            _, peer = self._rtcp.recvfrom(2048)
            if connection := self.heard.get((peer[0], peer[1])):
                connection.last_heard_s = loop.time()

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._rtp.recvfrom(2048)


def _bind_pair(host: str) -> tuple[socket.socket, socket.socket]:
    for _ in range(_TRIES):
        rtp, rtcp = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        try:
            rtp.bind((host, 0))
            if rtp.getsockname()[1] % 2 == 0:
                rtcp.bind((host, rtp.getsockname()[1] + 1))
                for sock in (rtp, rtcp):
                    sock.setblocking(False)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
                return rtp, rtcp
        except OSError:
            pass  # the odd neighbour is taken: try another pair
        rtp.close()
        rtcp.close()
    raise GridwatchError("simulate.no_udp_ports", host=host)
