"""uvicorn inside the command process: bound before it serves, stopped without waiting for endless answers.

Life cycle: `async with WebServer(app, host, port) as server:` listens (port 0 takes a free one, `server.port` tells
it), serves until the block ends, ends the live feeds, finishes running answers for at most `STOP_S`, and is gone.
Signals are left to the caller.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import uvicorn
from fastapi import FastAPI

from command.web.rights import require_loopback
from ingest.errors import GridwatchError

STOP_S = 3


class _QuietServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class WebServer:
    """One listening socket and its server task."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._task: asyncio.Task[None] | None = None
        self._server: _QuietServer | None = None

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._port

    @property
    def url(self) -> str:
        """What to open in a browser."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/"

    async def __aenter__(self) -> Self:
        """
        Raises:
            GridwatchError: `web.not_loopback`, or `web.port_taken` when the port cannot be bound.
        """
        require_loopback(self._host)
        listening = self._bind()
        self._port = listening.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_S,
            timeout_keep_alive=30,
            h11_max_incomplete_event_size=32 * 1024,
        )
        self._server = _QuietServer(config)
        self._task = asyncio.get_running_loop().create_task(self._server.serve([listening]), name="web-server")
        while not self._server.started:
            if self._task.done():
                listening.close()
                await self._task
                raise GridwatchError("web.not_started")
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None and self._task is not None
        self._server.should_exit = True
        self._app.state.live.close()
        await self._task

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self._host, self._port))
        except OSError as error:
            listening.close()
            raise GridwatchError("web.port_taken", host=self._host, port=self._port, why=error.strerror) from error
        listening.listen(128)
        return listening
