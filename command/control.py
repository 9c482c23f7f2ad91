"""How `gridwatch reload` reaches the running town: one JSON line there, one back, over a socket of this user alone.

The supervisor serves (`ControlServer`), a command asks (`ask`). A request is {"do": name}; each name is answered by one
function. The socket lies in the run folder (0700) and goes with the town.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ingest.errors import GridwatchError

log = logging.getLogger(__name__)

REQUEST_WAIT_S = 5.0
ANSWER_WAIT_S = 60.0

Answerer = Callable[[], Awaitable[dict[str, Any]]]


class ControlServer:
    """Life: `start`, `stop`. Requests are answered one by one a connection."""

    def __init__(self, path: Path, answerers: Mapping[str, Answerer]) -> None:
        self._path = path
        self._answerers = answerers
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; a socket left over from a killed town is replaced."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=4096)
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """Take no more requests."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_WAIT_S):
                request = json.loads(await reader.readline())
            answerer = self._answerers.get(request["do"])
            answer = {"ok": False, "unknown": True} if answerer is None else await answerer()
            writer.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, KeyError, TypeError, TimeoutError) as error:
            log.warning("a control request was not answered", extra={"why": repr(error)})
        finally:
            writer.close()


def ask(path: Path, what: str) -> dict[str, Any]:
    """Ask the town whose socket is `path`, and wait for its answer.

    Raises:
        GridwatchError: `control.not_running`, or `control.no_answer` when the town ended meanwhile.
    """
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(ANSWER_WAIT_S)
        try:
            line.connect(str(path))
        except OSError as error:
            raise GridwatchError("control.not_running") from error
        try:
            line.sendall(json.dumps({"do": what}).encode() + b"\n")
            with line.makefile("rb") as answers, contextlib.suppress(ValueError):
                answer: dict[str, Any] = json.loads(answers.readline())
                return answer
        except OSError as error:
            raise GridwatchError("control.no_answer") from error
    raise GridwatchError("control.no_answer")
