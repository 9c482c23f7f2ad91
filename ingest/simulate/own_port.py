"""A port that belongs to one camera, so that its plug can be pulled where TCP sees it.

Three ways to be: listening; refusing (bound, but nobody listens: RST); silent (a listener whose queue is full, so the
kernel drops every SYN, as behind a dead router). The port number stays the camera's all the while: a bound socket that
never listens holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Literal

PortState = Literal["listening", "refusing", "silent"]


class OwnPort:
    """`await switch(state)` changes how the port is; starts refusing. Closed by `close`."""

    def __init__(self, host: str, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._host = host
        self._make_protocol = make_protocol
        self._reserve = _reusable_socket()
        self._reserve.bind((host, 0))
        self.port: int = self._reserve.getsockname()[1]
        self.state: PortState = "refusing"
        self._server: asyncio.Server | None = None
        self._deaf: list[socket.socket] = []

    async def switch(self, state: PortState) -> None:
        """Go to a state; connections that there are stay as they are."""
        if state == self.state:
            return
        self._stop()
        self.state = state
        loop = asyncio.get_running_loop()
        if state == "listening":
            listener = _reusable_socket()
            listener.bind((self._host, self.port))
            self._server = await loop.create_server(self._make_protocol, sock=listener, backlog=128)
        elif state == "silent":
            await self._deafen(loop)

    async def _deafen(self, loop: asyncio.AbstractEventLoop) -> None:
        listener = _reusable_socket()
        listener.bind((self._host, self.port))
        listener.listen(0)
        self._deaf.append(listener)
        for _ in range(4):  # fill the queue until a connect no longer gets an answer
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            filler.setblocking(False)
            self._deaf.append(filler)
            try:
                await asyncio.wait_for(loop.sock_connect(filler, (self._host, self.port)), 0.05)
            except TimeoutError:
                return

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for sock in self._deaf:
            sock.close()
        self._deaf.clear()

    def close(self) -> None:
        """Give the port back."""
        self._stop()
        with contextlib.suppress(OSError):
            self._reserve.close()


def _reusable_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    return sock
