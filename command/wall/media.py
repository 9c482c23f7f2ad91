"""The media process: live pictures through WHEP on a unix socket, away from everything that has a deadline.

    POST   /whep/{camera}/{stream}     offer (application/sdp) -> 201, answer, Location, ETag
    DELETE /whep/sessions/{id}         -> 200
    GET    /stats                      facts, JSON

It keeps nothing: killed and started again, viewers reconnect. Rights are checked in the command process, which alone
reaches this socket (0600).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from command.wall.live_source import LiveSources, OpenUnits
from command.wall.whep_session import WhepLimits, WhepSessions
from ingest.clock import Clock, SystemClock
from ingest.errors import GridwatchError

log = logging.getLogger(__name__)

OFFER_MAX_BYTES = 64 * 1024
STREAMS = ("main", "sub")
_SDP = "application/sdp"

_STATUS = {
    "wall.unknown_stream": 404,
    "wall.not_live": 409,
    "wall.offer_too_long": 413,
    "wall.not_sdp": 415,
    "wall.bad_offer": 400,
    "wall.offer_without_video": 422,
    "wall.offer_without_h264": 406,
    "wall.h265": 406,
    "wall.b_frames": 406,
    "wall.full": 503,
    "tap.no_stream": 404,
    "tap.stream_over": 409,
    "tap.no_worker": 503,
    "tap.bad_message": 503,
    "wall.worker_away": 503,
    "wall.no_address": 503,
}
_OTHER_WAYS = {code: ["keyframes", "sub_stream"] for code in ("wall.h265", "wall.b_frames")}
_RETRY_AFTER_S = {409: "2", 503: "5"}


def create_media_app(
    open_units: OpenUnits, *, clock: Clock | None = None, limits: WhepLimits | None = None
) -> Starlette:
    """The media process's ASGI app.

    Args:
        open_units: `open_units(camera, stream)` gives an async context manager around an async iterator of access
            units, beginning with the cached GOP. It raises `GridwatchError` for a camera it does not know.
        clock: monotonic time is compared with `AccessUnit.received_s`.
        limits: bounds and addresses; the defaults serve one machine on loopback.
    """
    clock = clock or SystemClock()
    sources = LiveSources(open_units, clock)
    sessions = WhepSessions(sources, clock, limits or WhepLimits())

    async def start(request: Request) -> Response:
        camera, stream = request.path_params["camera"], request.path_params["stream"]
        try:
            if stream not in STREAMS:
                raise GridwatchError("wall.unknown_stream", camera=camera, stream=stream)
            session = await sessions.start(camera, stream, await _offer(request))
        except GridwatchError as error:
            return problem(error)
        return Response(
            session.answer_sdp,
            status_code=201,
            media_type=_SDP,
            headers={
                "Location": f"/whep/sessions/{session.id}",
                "ETag": f'"{hashlib.sha256(session.answer_sdp.encode()).hexdigest()[:16]}"',
                "Cache-Control": "no-store",
            },
        )

    async def end(request: Request) -> Response:
        if await sessions.end(request.path_params["session"]):
            return Response(status_code=200)
        return problem(GridwatchError("wall.unknown_session"), 404)

    async def stats(_: Request) -> Response:
        return JSONResponse(sessions.stats() | {"sources": sources.stats()})

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await sessions.close()
            await sources.close()

    # PATCH (trickle ICE, ICE restart) is answered 405 by the router: the answer holds all candidates already.
    app = Starlette(
        routes=[
            Route("/whep/sessions/{session}", end, methods=["DELETE"]),
            Route("/whep/{camera}/{stream}", start, methods=["POST"]),
            Route("/stats", stats, methods=["GET"]),
        ],
        lifespan=lifespan,
    )
    app.state.sessions = sessions
    return app


async def _offer(request: Request) -> str:
    """The request's SDP, read no further than its limit."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _SDP:
        raise GridwatchError("wall.not_sdp")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > OFFER_MAX_BYTES:
            raise GridwatchError("wall.offer_too_long", limit_kib=OFFER_MAX_BYTES // 1024)
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise GridwatchError("wall.bad_offer", camera=request.path_params["camera"], why="UTF-8") from error


def problem(error: GridwatchError, status: int | None = None) -> JSONResponse:
    """An error as the page shows it: code, sentence in both languages, other ways to watch."""
    if status is None:
        unknown = error.code.rpartition(".")[2].startswith("unknown")
        status = _STATUS.get(error.code, 404 if unknown else 503)
    body = {
        "code": error.code,
        "sentence": {"zh": error.sentence("zh"), "en": error.sentence("en")},
        "other_ways": _OTHER_WAYS.get(error.code, []),
    }
    headers = {"Cache-Control": "no-store"}
    if status in _RETRY_AFTER_S:
        headers["Retry-After"] = _RETRY_AFTER_S[status]
    return JSONResponse(body, status_code=status, headers=headers)


async def serve_media(socket_path: Path, app: Starlette, stop: asyncio.Event) -> None:
    """Serve `app` on a unix socket that only this user can open, until `stop` is set.

    A socket file left by a killed process is replaced. Viewers get their goodbye before this returns.
    """
    listener = _listen(socket_path)
    try:
        server = _Server(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=3)
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="media http")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        server.should_exit = True
        await serving
    finally:
        listener.close()
        _forget(socket_path)


def _listen(socket_path: Path) -> socket.socket:
    """A listening unix socket, 0600 before it gets its name: whoever finds it can connect to it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    half = socket_path.with_name(socket_path.name + ".new")
    half.unlink(missing_ok=True)
    listener.bind(str(half))
    half.chmod(0o600)
    listener.listen(64)
    listener.setblocking(False)
    half.replace(socket_path)
    return listener


def _forget(socket_path: Path) -> None:
    socket_path.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process's `stop` decides."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield
