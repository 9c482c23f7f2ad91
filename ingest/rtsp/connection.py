"""One TCP connection to a camera: requests out, answers matched, interleaved frames handed on.

Life: `connect` makes it, `request` any number of times, `close`. When it is lost `lost` holds why, and every request
that waits is told. Answers are matched by CSeq; one without CSeq (some cameras leave it out of errors) belongs to the
oldest request that waits.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from typing import cast

from ingest.rtsp.depacketiser import Depacketiser
from ingest.rtsp.interleaved import InterleavedReader
from ingest.rtsp.message import MessageError, Request, Response, format_answer, format_request


class ConnectionClosedError(Exception):
    """The connection is gone; the text says how."""


class RtspConnection(asyncio.Protocol):
    """`monotonic_s` dates chunks for `sink`, the depacketiser that the frames go to once it plays."""

    def __init__(
        self,
        monotonic_s: Callable[[], float],
        on_rtcp: Callable[[bytes], None],
        on_request: Callable[[Request], None],
    ) -> None:
        self.reader = InterleavedReader(self._on_message, on_rtcp)
        self.sink: Depacketiser | None = None
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.received_bytes = 0
        self.answers = 0
        self._monotonic_s = monotonic_s
        self._on_request = on_request
        self._transport: asyncio.Transport | None = None
        self._cseq = 0
        self._waiting: dict[int, asyncio.Future[Response]] = {}

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        sink = self.sink
        if sink is not None:
            sink.received_s = self._monotonic_s()
        try:
            self.reader.feed(data)
        except MessageError as error:
            self._end(error)
            self.abort()
            return
        if sink is not None:
            sink.chunk_done()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionClosedError(_why(exc)))

    # for the session

    @property
    def peer_host(self) -> str:
        """The address at the other end."""
        peer = self._transport.get_extra_info("peername") if self._transport else None
        return str(peer[0]) if peer else ""

    @property
    def local_host(self) -> str:
        """This machine's address on the connection."""
        name = self._transport.get_extra_info("sockname") if self._transport else None
        return str(name[0]) if name else ""

    async def request(self, method: str, uri: str, headers: Mapping[str, str], timeout_s: float) -> Response:
        """Send a request and wait for its answer.

        Raises:
            ConnectionClosedError: lost before the answer.
            MessageError: what came is no RTSP.
            TimeoutError: no answer in time.
        """
        if self.lost.done() or self._transport is None:
            raise self._lost_reason()
        self._cseq += 1
        cseq = self._cseq
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[cseq] = answer
        try:
            self._transport.write(format_request(method, uri, {"CSeq": str(cseq), **headers}))
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._waiting.pop(cseq, None)

    def send(self, data: bytes) -> None:
        """Send bytes that nobody answers."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def ignore_media(self) -> None:
        """The session is closing: nothing is delivered any more."""
        self.reader.ignore_media()
        self.sink = None

    def close(self) -> None:
        """Close after what is still to be sent; `lost` is set when done."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # within

    def _on_message(self, message: Response | Request) -> None:
        if isinstance(message, Request):
            self._on_request(message)
            return
        self.answers += 1
        text = message.header("cseq")
        cseq = int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None
        if cseq is None and self._waiting:
            cseq = min(self._waiting)
        answer = self._waiting.get(cseq) if cseq is not None else None
        if answer is not None and not answer.done():
            answer.set_result(message)

    def answer(self, request: Request, status: int, reason: str) -> None:
        """Answer a server's request."""
        self.send(format_answer(status, reason, request.header("cseq")))

    def _end(self, why: Exception) -> None:
        if not self.lost.done():
            self.lost.set_result(why)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(self._lost_reason())

    def _lost_reason(self) -> Exception:
        return self.lost.result() if self.lost.done() else ConnectionClosedError("not connected")


async def connect(host: str, port: int, timeout_s: float, make: Callable[[], RtspConnection]) -> RtspConnection:
    """Open the connection.

    Raises:
        OSError, TimeoutError, socket.gaierror: as the system says.
    """
    async with asyncio.timeout(timeout_s):
        _, protocol = await asyncio.get_running_loop().create_connection(make, host, port)
    return protocol


def _why(exc: Exception | None) -> str:
    if exc is None:
        return "closed by the camera"
    number = getattr(exc, "errno", None)
    return errno.errorcode.get(number, str(exc)) if isinstance(number, int) else str(exc) or type(exc).__name__
