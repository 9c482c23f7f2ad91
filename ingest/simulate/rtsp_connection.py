"""One RTSP 1.0 connection to the simulator (RFC 2326): requests in, answers and interleaved media out.

A connection serves one session. It ends with TEARDOWN, when the client goes, when nothing was heard for the session's
timeout, or by a fault. Requests are bounded in size; bytes that are no RTSP end the connection.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import struct
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote, urlsplit

from ingest.access_unit import StreamName
from ingest.errors import GridwatchError
from ingest.simulate.fault import AT_CONNECT, NEVER_ANSWERS, FaultKind

if TYPE_CHECKING:
    from ingest.simulate.feed import Feed
    from ingest.simulate.live_camera import LiveCamera
    from ingest.simulate.town import SimulatedTown

_log = logging.getLogger(__name__)

_MOST_REQUEST_BYTES: Final = 16384
_HIGH_WATER_BYTES: Final = 2 << 20
_METHODS: Final = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    453: "Not Enough Bandwidth",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
}


class RtspConnection(asyncio.Protocol):
    """See the module. `only` is set on a port that belongs to one camera."""

    waits_for_keyframe = True

    def __init__(self, town: SimulatedTown, only: LiveCamera | None = None) -> None:
        self._town = town
        self._only = only
        self._camera = only
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._feed: Feed | None = None
        self._playing = False
        self._session = ""
        self._channel = 0
        self._udp_peer: tuple[str, int] | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self.deaf = False
        self.stream: StreamName | None = None
        self.last_heard_s = 0.0

    # the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by isinstance
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self.last_heard_s = self._town.now_s()
        self._town.connections.add(self)
        if self._only is not None:
            self._only.connections.add(self)
            self._only.enforce()

    def connection_lost(self, error: Exception | None) -> None:
        self._end_session()
        self._town.connections.discard(self)
        if self._camera is not None:
            self._camera.connections.discard(self)
        self._transport = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # media out

    @property
    def ready(self) -> bool:
        return not self._paused and self._transport is not None and not self._transport.is_closing()

    def send(self, packets: bytes | memoryview, offsets: tuple[int, ...], base: int = 0) -> None:
        transport = self._transport
        if transport is None or self.deaf:
            return
        if self._udp_peer is not None:
            ends = (*offsets[1:], base + len(packets))
            for start, end in zip(offsets, ends, strict=True):
                self._town.udp.send_rtp(packets[start - base + 4 : end - base], self._udp_peer)
        elif self._channel:
            moved = bytearray(packets)
            for offset in offsets:
                moved[offset - base + 1] = self._channel
            transport.write(moved)
        else:
            transport.write(packets)

    def send_report(self, report: bytes) -> None:
        if self._transport is None or self.deaf:
            return
        if self._udp_peer is not None:
            self._town.udp.send_rtcp(report, (self._udp_peer[0], self._udp_peer[1] + 1))
        else:
            self._transport.write(struct.pack(">BBH", 0x24, self._channel + 1, len(report)) + report)

    def send_raw(self, data: bytes) -> None:
        if self._udp_peer is not None:
            self._town.udp.send_rtp(data[:1400], self._udp_peer)
        elif self._transport is not None and not self.deaf:
            self._transport.write(data)

    # requests in

    def data_received(self, data: bytes) -> None:
        self.last_heard_s = self._town.now_s()
        if self.deaf:
            return
        self._buffer += data
        while self._buffer and self._transport is not None and not self._transport.is_closing() and not self.deaf:
            if self._buffer[0] == 0x24:  # the client's RTCP: heard, not read
                if len(self._buffer) < 4 or len(self._buffer) < 4 + int.from_bytes(self._buffer[2:4]):
                    return
                del self._buffer[: 4 + int.from_bytes(self._buffer[2:4])]
                continue
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _MOST_REQUEST_BYTES:
                    self.abort()
                return
            head = bytes(self._buffer[:end]).decode("utf-8", "replace")
            headers = {
                key.strip().lower(): value.strip()
                for key, colon, value in (line.partition(":") for line in head.split("\r\n")[1:])
                if colon
            }
            length = headers.get("content-length", "0")
            body = int(length) if length.isascii() and length.isdigit() else 0
            if body > _MOST_REQUEST_BYTES:
                self.abort()
                return
            if len(self._buffer) < end + 4 + body:
                return
            del self._buffer[: end + 4 + body]
            self._request(head.split("\r\n", 1)[0].lstrip(), headers)

    def _request(self, line: str, headers: dict[str, str]) -> None:
        parts = line.split(" ")
        if len(parts) != 3 or not parts[2].startswith("RTSP/"):
            self.abort()
            return
        method, url, _ = parts
        sequence = headers.get("cseq", "")
        try:
            status, extra, body = self._answer(method, url, headers)
        except GridwatchError as error:
            _log.info("request refused", extra={"code": error.code, **{k: str(v) for k, v in error.facts.items()}})
            status, extra, body = 400, [], ""
        if status == 0 or self._transport is None:
            return
        lines = [f"RTSP/1.0 {status} {_REASONS[status]}", *([f"CSeq: {sequence}"] if sequence else []), *extra]
        if body:
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        self._transport.write("\r\n".join([*lines, "", body]).encode())
        if method == "TEARDOWN" and status == 200:
            self._transport.close()

    def _answer(self, method: str, url: str, headers: dict[str, str]) -> tuple[int, list[str], str]:
        """Status, header lines and body; status 0 means no answer."""
        if method not in _METHODS.split(", "):
            return 405, [f"Allow: {_METHODS}"], ""
        target = urlsplit(url)
        found = self._locate(target.path)
        if found is None:
            return (200, [f"Public: {_METHODS}"], "") if method == "OPTIONS" and url == "*" else (404, [], "")
        camera, stream = found
        query = target.query or (self._feed.query_text if self._feed else "")
        match camera.connect_fault(stream, query):
            case FaultKind.REFUSE:
                self.abort()
                return 0, [], ""
            case FaultKind.HANG | FaultKind.SILENT:
                self.deaf = True
                return 0, [], ""
            case FaultKind.UNAUTHORISED:
                return 401, self._challenge(camera), ""
            case FaultKind.NOT_FOUND:
                return 404, [], ""
            case FaultKind.SESSION_LIMIT if method == "SETUP":
                return 453, [], ""
        if method == "OPTIONS":
            return 200, [f"Public: {_METHODS}"], ""
        config = camera.config
        if config.user is not None and not self._town.gate.accepts(
            headers.get("authorization", ""), method, config.user, config.password, config.digest
        ):
            return 401, self._challenge(camera), ""
        match method:
            case "DESCRIBE":
                return self._describe(camera, stream, target.query, url)
            case "SETUP":
                return self._set_up(camera, stream, query, headers)
        if not self._session or headers.get("session", self._session).split(";")[0] != self._session:
            return 454, [], ""
        match method:
            case "PLAY":
                return self._play(url)
            case "TEARDOWN":
                return 200, [f"Session: {self._session}"], ""
        return 200, [f"Session: {self._session}"], ""

    def _locate(self, path: str) -> tuple[LiveCamera, StreamName] | None:
        names = [unquote(name) for name in path.split("/") if name]
        camera = self._town.live(names[0]) if names else None
        if camera is None or (self._only is not None and camera is not self._only) or len(names) < 2:
            return None
        if names[1] == "main":
            stream: StreamName = "main"
        elif names[1] == "sub":
            stream = "sub"
        else:
            return None
        if self._camera is not camera:
            if self._camera is not None:
                return None  # a connection belongs to the camera that it asked first
            self._camera = camera
            camera.connections.add(self)
        self.stream = stream
        return camera, stream

    def _challenge(self, camera: LiveCamera) -> list[str]:
        return [f"WWW-Authenticate: {value}" for value in self._town.gate.challenges(camera.config.digest)]

    def _describe(self, camera: LiveCamera, stream: StreamName, query: str, url: str) -> tuple[int, list[str], str]:
        feed = camera.feed(stream, query)
        if feed is None:
            return 404, [], ""
        if not self._session:
            self._feed = feed
        base = url.partition("?")[0].rstrip("/") + "/"
        return 200, [f"Content-Base: {base}"], feed.clip_sdp()

    def _set_up(
        self, camera: LiveCamera, stream: StreamName, query: str, headers: dict[str, str]
    ) -> tuple[int, list[str], str]:
        if self._session:
            return 455, [], ""
        feed = camera.feed(stream, query)
        if feed is None:
            return 404, [], ""
        limit = camera.config.max_sessions
        if limit is not None and camera.sessions >= limit:
            return 453, [], ""
        transport = self._choose_transport(headers.get("transport", ""))
        if transport is None:
            return 461, [], ""
        self._feed, self._session = feed, secrets.token_hex(8)
        camera.sessions += 1
        timeout_s = self._town.session_timeout_s
        self._watch(timeout_s)
        return 200, [f"Transport: {transport}", f"Session: {self._session};timeout={round(timeout_s)}"], ""

    def _choose_transport(self, offered: str) -> str | None:
        for wish in offered.split(","):
            profile, *parameters = [part.strip() for part in wish.split(";")]
            if "multicast" in parameters:
                continue
            if profile.upper() == "RTP/AVP/TCP":
                channels = re.search(r"interleaved=(\d{1,3})", wish)
                channel = int(channels[1]) if channels else 0
                if channel > 254:
                    continue
                self._channel = channel
                return f"RTP/AVP/TCP;unicast;interleaved={channel}-{channel + 1}"
            ports = re.search(r"client_port=(\d{1,5})", wish)
            if profile.upper() in ("RTP/AVP", "RTP/AVP/UDP") and ports and 0 < int(ports[1]) < 65535:
                assert self._transport is not None
                peer = self._transport.get_extra_info("peername")[0]
                self._udp_peer = peer, int(ports[1])
                server = self._town.udp.rtp_port
                return f"RTP/AVP;unicast;client_port={ports[1]}-{int(ports[1]) + 1};server_port={server}-{server + 1}"
        return None

    def _play(self, url: str) -> tuple[int, list[str], str]:
        assert self._feed is not None
        lines = [f"Session: {self._session}", "Range: npt=now-"]
        if self._playing:
            return 200, lines, ""
        self._playing = True
        if self._udp_peer is not None:
            self._town.udp.heard[self._udp_peer[0], self._udp_peer[1] + 1] = self
        first = self._feed.attach(self, self._town.now_s())
        if first is not None:
            track = url.partition("?")[0].rstrip("/") + "/track1"
            lines.append(f"RTP-Info: url={track};seq={first.sequence};rtptime={first.rtp_time}")
        fault = self._feed.query.timed_fault
        if fault is not None and fault.after_s and fault.kind in AT_CONNECT:
            asyncio.get_running_loop().call_later(fault.after_s, self._meet, fault.kind)
        return 200, lines, ""

    def _meet(self, kind: FaultKind) -> None:
        """A connect fault with `after_s` in the URL begins while playing."""
        if kind in NEVER_ANSWERS:
            self.deaf = True
        else:
            self.abort()

    def _watch(self, timeout_s: float) -> None:
        """End the session when nothing was heard for its timeout; looks again when there was."""
        quiet_s = self._town.now_s() - self.last_heard_s
        if quiet_s >= timeout_s:
            _log.info("session timed out", extra={"camera": self._camera.config.id if self._camera else None})
            self.hang_up()
            return
        loop = asyncio.get_running_loop()
        self._timeout = loop.call_later(timeout_s - quiet_s + 0.01, self._watch, timeout_s)

    def _end_session(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
        if self._feed is not None:
            self._feed.detach(self)
        if self._udp_peer is not None:
            self._town.udp.heard.pop((self._udp_peer[0], self._udp_peer[1] + 1), None)
        if self._session and self._camera is not None:
            self._camera.sessions -= 1
        self._session = ""
