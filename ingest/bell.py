"""A poke from process to process: "something waits in your folder". It carries nothing, so losing one costs only time.

The listener binds a unix datagram socket; whoever puts something down rings. Nobody listening, or a full socket, is no
error: the listener polls anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

_LONGEST_PATH = 107  # bytes of sun_path without its final zero


class Bell:
    """One bell at one path. `ring` from anywhere; `listen`, `wait`, `close` in the listener's event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sender: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the listener; returns at once."""
        if self._sender is None:
            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError, BlockingIOError), _address(self.path) as at:
            self._sender.sendto(b"!", at)

    def listen(self) -> None:
        """Start listening. A socket left behind by a killed listener is replaced."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        try:
            with _address(self.path) as at:
                listener.bind(at)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._hear)

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a ring since the last `wait`; False when none came within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True

    def _hear(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                self._listener.recv(16)
                self._rung.set()

    def close(self) -> None:
        """Stop listening and remove the socket. Idempotent."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        if self._sender is not None:
            self._sender.close()
            self._sender = None


class _address:  # noqa: N801 - reads as the function that it is
    """The socket's address; a path too long for sun_path is reached through its folder's descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder_fd: int | None = None

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= _LONGEST_PATH:
            return str(self._path)
        self._folder_fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder_fd}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._folder_fd is not None:
            os.close(self._folder_fd)
