"""One RTSP session to one stream: connect, DESCRIBE, SETUP of the video track, PLAY; then access units flow.

Life: `RtspSession(...)`, `await open()` (raises `SessionError`), units arrive at `on_unit` from within the event loop's
read callback, `await ended()` returns why it ended, `await close()` tears down. A session is used once; what keeps a
camera alive for ever is `ingest.link.CameraLink`. Quirks and their policies: docs/design/rtsp.md.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from ingest.access_unit import AccessUnit
from ingest.clock import Clock
from ingest.rtsp.auth import Authenticator, parse_challenges
from ingest.rtsp.connection import ConnectionClosedError, RtspConnection, connect
from ingest.rtsp.depacketiser import Depacketiser, depacketiser_for
from ingest.rtsp.errors import SessionError
from ingest.rtsp.message import MessageError, Request, Response
from ingest.rtsp.parameter_sets import ParameterSets
from ingest.rtsp.rtcp import parse_rtcp
from ingest.rtsp.sdp import Media, join_control, parse_sdp
from ingest.rtsp.timeline import Timeline
from ingest.rtsp.transport_header import TransportGrant, parse_transport
from ingest.rtsp.udp import UdpReceiver
from ingest.secret import SecretUrl, redact_url

log = logging.getLogger(__name__)

MAX_REDIRECTS = 3
USER_AGENT = "gridwatch"
KEEP_ALIVE_FRACTION = 0.4
TEARDOWN_WAIT_S = 0.5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each step may take, seconds."""

    connect_s: float = 5.0
    first_answer_s: float = 5.0
    answer_s: float = 5.0


class RtspSession:
    """`on_unit` is called synchronously and must be quick. `on_answered` tells of the first RTSP answer."""

    def __init__(
        self,
        url: SecretUrl,
        *,
        clock: Clock,
        on_unit: Callable[[AccessUnit], None],
        camera: str = "",
        stream: str = "main",
        transport: Literal["tcp", "udp"] = "tcp",
        patience: Patience | None = None,
        on_answered: Callable[[], None] | None = None,
    ) -> None:
        self.camera = camera
        self.stream = stream
        self.transport: Literal["tcp", "udp", "libav"] = transport
        self.clock_offset_s: float | None = None
        self.depacketiser: Depacketiser | None = None
        self.sdp_sets = 0  # parameter sets in the session description
        self._clock = clock
        self._on_unit = on_unit
        self._url = url
        self._patience = patience or Patience()
        self._on_answered = on_answered
        self._connection: RtspConnection | None = None
        self._authenticator: Authenticator | None = None
        self._authenticated = False
        self._timeline: Timeline | None = None
        self._udp: UdpReceiver | None = None
        self._session_id: str | None = None
        self._timeout_s = 60.0
        self._aggregate = ""
        self._elsewhere = False  # redirected to a host that streams.yaml does not name
        self._address = ""
        self._methods: frozenset[str] = frozenset()
        self._keep_alive: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[SessionError] = asyncio.get_running_loop().create_future()

    @property
    def seen_units(self) -> int:
        """Pictures that came, whether they could be delivered or not: the sign of life."""
        return self.depacketiser.seen_units if self.depacketiser else 0

    @property
    def units(self) -> int:
        """Units delivered."""
        return self.depacketiser.units if self.depacketiser else 0

    @property
    def media_bytes(self) -> int:
        """Bytes of delivered units."""
        return self.depacketiser.media_bytes if self.depacketiser else 0

    @property
    def last_unit_s(self) -> float:
        """When the last picture came, monotonic seconds."""
        return self.depacketiser.last_unit_s if self.depacketiser else 0.0

    @property
    def lost_packets(self) -> int:
        """RTP packets that are missing, exactly."""
        return self.depacketiser.lost_packets if self.depacketiser else 0

    @property
    def packets(self) -> int:
        """RTP packets of the video track that came."""
        return self.depacketiser.packets if self.depacketiser else 0

    @property
    def why_no_unit(self) -> str:
        """What is known about pictures that came and could not be delivered."""
        if self.depacketiser is None:
            return "no packet came"
        d = self.depacketiser
        problem = d.sets.last_problem
        what = f"{d.seen_units} pictures came, {d.damaged_units} damaged, {d.bad_packets} unreadable packets"
        return f"{what}, parameter set: {problem}" if problem else what

    async def open(self) -> None:
        """Connect and start playing.

        Raises:
            SessionError: with the camera's state; everything is closed again.
        """
        try:
            await self._open()
        except BaseException:
            self._release()
            raise

    async def ended(self) -> SessionError:
        """Wait until the session has ended by itself, and say why."""
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        """TEARDOWN (waiting shortly for its answer) and close; may be called at any time, and twice."""
        connection = self._connection
        if self._keep_alive:
            self._keep_alive.cancel()
        if connection is not None and self._session_id is not None and not connection.lost.done():
            connection.ignore_media()
            try:
                headers = self._headers("TEARDOWN", self._aggregate)
                await connection.request("TEARDOWN", self._aggregate, headers, TEARDOWN_WAIT_S)
            except (ConnectionClosedError, MessageError, TimeoutError, OSError):
                pass  # the camera forgets the session by its own timeout
        self._session_id = None
        self._release()

    def sample_wall(self) -> None:
        """Compare the server's two clocks; the link calls this every second."""
        if self._timeline is not None:
            self._timeline.set_wall_offset(self._clock.now().timestamp() - self._clock.monotonic_s())

    # the dialogue

    async def _open(self) -> None:
        url = self._url.bare
        description: Response | None = None
        for _ in range(MAX_REDIRECTS + 1):
            await self._connect(url)
            description = await self._describe(url)
            if description.status not in _REDIRECTS:
                break
            url = self._redirected(url, description.header("location"))
            self._release()
        assert description is not None
        if description.status in _REDIRECTS:
            raise self._error("camera.redirected_away", url=redact_url(url), why="more than three redirects")
        self._expect_ok("DESCRIBE", description, url)
        media, track = self._choose(description, url)
        await self._set_up(media, track)
        await self._play(track)

    async def _connect(self, url: str) -> None:
        self._address = url
        parts = urlsplit(url)
        try:
            host, port = parts.hostname or "", parts.port or 554
        except ValueError:
            host, port = "", 0
        if not host or parts.scheme.lower() != "rtsp":
            raise self._error("camera.bad_answer", where="URL", what=redact_url(url))
        wait_s = self._patience.connect_s
        try:
            self._connection = await connect(host, port, wait_s, self._make_connection)
        except socket.gaierror as error:
            raise self._error("camera.unknown_host", host=host, why=error.strerror or "") from None
        except ConnectionRefusedError:
            raise self._error("camera.refused", host=host, port=port, why="connection refused") from None
        except (TimeoutError, OSError) as error:
            why = (getattr(error, "strerror", None) or "timed out") if isinstance(error, OSError) else "timed out"
            raise self._error("camera.unreachable", host=host, port=port, waited_s=f"{wait_s:g}", why=why) from None

    def _make_connection(self) -> RtspConnection:
        return RtspConnection(self._clock.monotonic_s, self._on_rtcp, self._on_server_request)

    async def _describe(self, url: str) -> Response:
        options = await self._request("OPTIONS", url, first=True)
        if options.status == 200:
            public = ",".join(options.headers.get("public", []))
            self._methods = frozenset(word.strip().upper() for word in public.split(","))
        return await self._request("DESCRIBE", url, {"Accept": "application/sdp"})

    def _redirected(self, url: str, location: str | None) -> str:
        if not location or not location.lower().startswith("rtsp://"):
            raise self._error("camera.redirected_away", url=redact_url(location or ""), why="no rtsp:// address")
        target = SecretUrl(location).bare
        self._elsewhere |= urlsplit(target).hostname != urlsplit(url).hostname
        self._authenticator = None
        self._authenticated = False
        return target

    def _choose(self, description: Response, url: str) -> tuple[Media, str]:
        sdp = parse_sdp(description.body)
        media = sdp.video()
        if media is None:
            kinds = ", ".join(m.kind for m in sdp.media) or f"{len(description.body)} bytes"
            raise self._error("camera.no_video", what=kinds)
        if media.codec is None or media.interleaved:
            what = media.encoding or f"payload type {media.payload_type}"
            raise self._error("camera.codec", what=what + (", interleaved" if media.interleaved else ""))
        base = description.header("content-base") or description.header("content-location") or url
        if not base.lower().startswith("rtsp://"):
            base = url
        base = SecretUrl(base).bare
        self._aggregate = join_control(base, sdp.control)
        return media, join_control(base, media.control)

    async def _set_up(self, media: Media, track: str) -> None:
        connection = self._require_connection()
        if self.transport == "tcp":
            offer = "RTP/AVP/TCP;unicast;interleaved=0-1"
        else:
            self._udp = await UdpReceiver.open(connection.local_host)
            ports = self._udp.ports
            offer = f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]}"
        answer = await self._request("SETUP", track, {"Transport": offer})
        if answer.status in (461, 400, 405, 406, 415, 500, 501, 551):
            name = "TCP" if self.transport == "tcp" else "UDP"
            raise self._error("camera.transport_refused", transport=name, status=answer.status, reason=answer.reason)
        self._expect_ok("SETUP", answer, track)
        self._read_session(answer)
        grant = parse_transport(answer.header("transport") or "")
        assert media.codec is not None
        self._timeline = timeline = Timeline(self._on_reorder)
        self.sample_wall()
        depacketiser = depacketiser_for(media.payload_type, ParameterSets(media.codec), timeline, self._on_unit)
        sets = media.parameter_sets()
        self.sdp_sets = len(sets)
        depacketiser.learn(sets)
        depacketiser.expect_ssrc(grant.ssrc)
        self.depacketiser = depacketiser
        if self.transport == "tcp":
            self._receive_tcp(connection, depacketiser, grant)
        else:
            self._receive_udp(connection, depacketiser, grant)

    def _receive_tcp(self, connection: RtspConnection, depacketiser: Depacketiser, grant: TransportGrant) -> None:
        channels = grant.channels or (0, 1)
        connection.reader.rtp_channel, connection.reader.rtcp_channel = channels
        connection.reader.on_rtp = depacketiser.packet
        connection.reader.on_run = depacketiser.run
        connection.sink = depacketiser

    def _receive_udp(self, connection: RtspConnection, depacketiser: Depacketiser, grant: TransportGrant) -> None:
        assert self._udp is not None
        connection.reader.rtp_channel = connection.reader.rtcp_channel = -1
        self._udp.receive(
            depacketiser,
            source=grant.source or connection.peer_host,
            server_ports=grant.server_ports,
            monotonic_s=self._clock.monotonic_s,
            on_rtcp=self._on_rtcp,
        )

    async def _play(self, track: str) -> None:
        headers = {"Range": "npt=0.000-"}
        answer = await self._request("PLAY", self._aggregate, headers)
        if answer.status in (459, 460, 404) and track != self._aggregate:
            # Aggregate control refused or unknown: the track's own URL.
            answer = await self._request("PLAY", track, headers)
            self._aggregate = track
        elif answer.status == 457:
            answer = await self._request("PLAY", self._aggregate)
        self._expect_ok("PLAY", answer, self._aggregate)
        self._read_session(answer)
        connection = self._require_connection()
        connection.lost.add_done_callback(self._on_lost)
        self._keep_alive = asyncio.create_task(self._keep_session(), name=f"keep-alive {self.camera}/{self.stream}")

    async def _request(
        self, method: str, uri: str, headers: dict[str, str] | None = None, *, first: bool = False
    ) -> Response:
        """A request, with login when it is asked for. A login is answered once (twice when the nonce was stale).

        Some cameras close the connection behind their 401: it is opened anew for the answer, once.
        """
        asked = False
        for _ in range(4):
            try:
                answer = await self._exchange(method, uri, headers or {}, first=first)
            except SessionError as error:
                if error.code != "camera.connection_lost" or not asked or self._session_id is not None:
                    raise
                asked = False
                self._release()
                await self._connect(self._address)
                continue
            asked, first = answer.status == 401, False
            if answer.status != 401:
                self._authenticated = self._authenticator is not None
                return answer
            self._log_in(answer)
        return answer

    def _log_in(self, answer: Response) -> None:
        challenges = parse_challenges(answer.headers.get("www-authenticate", []))
        credentials = self._url.credentials
        if credentials is None or not credentials[0]:
            raise self._error("camera.no_credentials")
        if not challenges:
            raise self._error("camera.bad_answer", where="401", what="no login method that is known")
        challenge = challenges[0]
        if self._elsewhere and not challenge.algorithm:
            # Basic would hand the password in clear to a host that nobody has named.
            why = "Basic login on another host"
            raise self._error("camera.redirected_away", url=redact_url(self._address), why=why)
        used = self._authenticator
        if used is not None:
            renewed = challenge.nonce != used.challenge.nonce and (challenge.stale or self._authenticated)
            if not renewed:
                raise self._error("camera.unauthorised")
            self._authenticated = False
        self._authenticator = Authenticator(challenge, *credentials)

    async def _exchange(self, method: str, uri: str, headers: dict[str, str], *, first: bool) -> Response:
        connection = self._require_connection()
        wait_s = self._patience.first_answer_s if first else self._patience.answer_s
        try:
            answer = await connection.request(method, uri, {**self._headers(method, uri), **headers}, wait_s)
        except TimeoutError:
            raise self._error("camera.no_answer", method=method, waited_s=f"{wait_s:g}") from None
        except MessageError as error:
            raise self._error("camera.bad_answer", where=method, what=error) from None
        except (ConnectionClosedError, OSError) as error:
            code = "camera.connection_lost" if connection.answers else "camera.closed_at_once"
            raise self._error(code, method=method, why=error) from None
        if self._on_answered is not None:
            self._on_answered()
            self._on_answered = None
        return answer

    def _headers(self, method: str, uri: str) -> dict[str, str]:
        headers = {"User-Agent": USER_AGENT}
        if self._session_id is not None:
            headers["Session"] = self._session_id
        if self._authenticator is not None:
            headers["Authorization"] = self._authenticator.header(method, uri)
        return headers

    def _expect_ok(self, method: str, answer: Response, url: str) -> None:
        status = answer.status
        if status == 200:
            return
        if status == 404:
            raise self._error("camera.not_found", url=redact_url(url))
        if status in (453, 503):
            raise self._error("camera.session_limit", method=method, status=status, reason=answer.reason)
        if status == 454:
            raise self._error("camera.session_lost", method=method, status=status)
        raise self._error("camera.bad_status", method=method, status=status, reason=answer.reason)

    def _read_session(self, answer: Response) -> None:
        value = answer.header("session")
        if not value:
            return
        session_id, *parameters = value.split(";")
        self._session_id = session_id.strip()[:256] or None
        for parameter in parameters:
            name, _, text = parameter.strip().partition("=")
            if name.strip().lower() == "timeout" and text.strip().isascii() and text.strip().isdigit():
                self._timeout_s = float(min(max(int(text.strip()[:6]), 5), 3600))

    # while it plays

    async def _keep_session(self) -> None:
        """Ask for a sign of life at a fraction of the server's timeout; an unanswered one is no reason to end.

        GET_PARAMETER where the server knows it, OPTIONS from the first time on that it is not answered with 200: some
        cameras advertise it and answer 400, 454 or under another number. Only OPTIONS' 454 is believed.
        """
        method = "GET_PARAMETER" if "GET_PARAMETER" in self._methods else "OPTIONS"
        while True:
            pause_s = min(self._timeout_s, 150.0) * KEEP_ALIVE_FRACTION
            await asyncio.sleep(pause_s * random.uniform(0.9, 1.0))  # noqa: S311 (spreads cameras, guards nothing)
            try:
                answer = await self._request(method, self._aggregate)
            except SessionError as error:
                if error.code == "camera.no_answer":
                    log.debug("keep-alive unanswered", extra={"camera": self.camera, "stream": self.stream})
                    method = "OPTIONS"
                    continue
                self._end(error)
                return
            if answer.status == 454 and method == "OPTIONS":
                self._end(self._error("camera.session_lost", method=method, status=454))
                return
            if answer.status != 200:
                method = "OPTIONS"

    def _on_reorder(self, depth: int) -> None:
        if self.depacketiser is not None:
            self.depacketiser.sets.observe_reorder(depth)

    def _on_rtcp(self, packet: bytes) -> None:
        depacketiser = self.depacketiser
        ssrc = depacketiser.ssrc if depacketiser is not None and depacketiser.packets else None
        compound = parse_rtcp(packet, ssrc)
        if compound.sender_report is not None:
            self.clock_offset_s = compound.sender_report.ntp_s - self._clock.now().timestamp()
            if self._udp is not None:
                self._udp.note_sender_report(compound.sender_report, self._clock.monotonic_s())
        if compound.bye:
            self._end(self._error("camera.ended", what="RTCP BYE"))

    def _on_server_request(self, request: Request) -> None:
        connection = self._require_connection()
        if request.method in ("OPTIONS", "GET_PARAMETER", "SET_PARAMETER", "ANNOUNCE"):
            connection.answer(request, 200, "OK")
        elif request.method in ("REDIRECT", "TEARDOWN"):
            connection.answer(request, 200, "OK")
            self._end(self._error("camera.ended", what=request.method))
        else:
            connection.answer(request, 501, "Not Implemented")

    def _on_lost(self, lost: asyncio.Future[Exception]) -> None:
        why = lost.result()
        if isinstance(why, MessageError):
            self._end(self._error("camera.bad_answer", where="stream", what=why))
        else:
            self._end(self._error("camera.connection_lost", why=why))

    def _end(self, why: SessionError) -> None:
        if not self._ended.done():
            self._ended.set_result(why)

    def _error(self, code: str, **facts: object) -> SessionError:
        return SessionError(code, camera=self.camera, stream=self.stream, **facts)

    def _require_connection(self) -> RtspConnection:
        assert self._connection is not None
        return self._connection

    def _release(self) -> None:
        if self._keep_alive:
            self._keep_alive.cancel()
        if self._udp is not None:
            self._udp.close()
            self._udp = None
        if self._connection is not None:
            self._connection.ignore_media()
            self._connection.abort()
            self._connection = None
