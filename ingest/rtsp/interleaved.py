"""One RTSP connection's bytes (RFC 2326 10.12) taken apart: `$` frames and RTSP messages. No I/O.

Between frames some cameras let garbage through. Up to `MAX_GARBAGE_BYTES` in a row are passed over, looking for a
message or a plausible frame (known channel, RTP version 2); more is a `MessageError`, which ends the session.
"""

from __future__ import annotations

from collections.abc import Callable

from ingest.rtsp.message import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MessageError,
    Request,
    Response,
    parse_message,
    printable,
)

MAX_GARBAGE_BYTES = 256 * 1024
_DOLLAR = 0x24
_BEGINNINGS = (
    b"RTSP/",
    b"OPTIONS ",
    b"GET_PARAMETER ",
    b"SET_PARAMETER ",
    b"ANNOUNCE ",
    b"REDIRECT ",
    b"TEARDOWN ",
    b"DESCRIBE ",
    b"PLAY_NOTIFY ",
)


class InterleavedReader:
    """`feed` calls back synchronously: `on_rtp(bytes, start, end)` for each frame of channel `rtp_channel`, and others.

    `on_run(bytes, start, end, head)` may take several frames at once (see `Depacketiser.run`).
    """

    def __init__(
        self,
        on_message: Callable[[Response | Request], None],
        on_rtcp: Callable[[bytes], None],
    ) -> None:
        self.on_rtp: Callable[[bytes, int, int], None] = _ignore
        self.on_run: Callable[[bytes, int, int, int], int] = _no_run
        self.rtp_channel = -1
        self.rtcp_channel = -1
        self.garbage_bytes = 0
        self.other_channel_frames = 0
        self._garbage_run = 0
        self._on_message = on_message
        self._on_rtcp = on_rtcp
        self._rest = b""

    def ignore_media(self) -> None:
        """From now on only messages matter."""
        self.on_rtp, self.on_run = _ignore, _no_run

    def feed(self, d: bytes) -> None:
        """Take in received bytes.

        Raises:
            MessageError: no RTSP, or too much garbage.
        """
        if self._rest:
            d = self._rest + d
        o, n = 0, len(d)
        rtp_channel, on_rtp, on_run = self.rtp_channel, self.on_rtp, self.on_run
        head = _DOLLAR << 8 | rtp_channel
        o = on_run(d, 0, n, head)
        while o + 4 <= n:
            if d[o] == _DOLLAR:
                e = o + 4 + (d[o + 2] << 8 | d[o + 3])
                channel = d[o + 1]
                if channel == rtp_channel:
                    if e > n:
                        break
                    on_rtp(d, o + 4, e)
                    o = on_run(d, e, n, head)
                    continue
                if channel <= 31 or channel == self.rtcp_channel:
                    if e > n:
                        break
                    if channel == self.rtcp_channel:
                        self._on_rtcp(d[o + 4 : e])
                    else:
                        self.other_channel_frames += 1
                    o = e
                    continue
            before = o
            o = self._message_or_garbage(d, o)
            rtp_channel, on_rtp, on_run = self.rtp_channel, self.on_rtp, self.on_run
            head = _DOLLAR << 8 | rtp_channel
            if o == before:
                break
        self._rest = d[o:] if o < n else b""

    def _message_or_garbage(self, d: bytes, o: int) -> int:
        """The offset behind a message or a piece of garbage; `o` itself when more bytes are needed."""
        if d[o] in b"\r\n":
            return o + 1
        if 0x41 <= d[o] <= 0x5A and _looks_like_message(d, o):
            message, end = parse_message(d, o)
            if message is None:
                if len(d) - o > MAX_HEAD_BYTES + MAX_BODY_BYTES:
                    raise MessageError(f"message without end: {printable(d[o:])}")
                return o
            self._garbage_run = 0
            self._on_message(message)
            return end
        if self.rtp_channel < 0:
            raise MessageError(f"no RTSP: {printable(d[o:])}")
        following = self._resynchronise(d, o + 1)
        self.garbage_bytes += following - o
        self._garbage_run += following - o
        if self._garbage_run > MAX_GARBAGE_BYTES:
            raise MessageError(f"{self._garbage_run} bytes between frames are neither RTP nor RTSP")
        return following

    def _resynchronise(self, d: bytes, o: int) -> int:
        n = len(d)
        while True:
            frame, message = d.find(b"$", o), d.find(b"RTSP/", o)
            at = min((x for x in (frame, message) if x >= 0), default=-1)
            if at < 0:
                return n - 3 if n - 3 > o else o
            if at + 6 > n or at == message:
                return at
            known = d[at + 1] in (self.rtp_channel, self.rtcp_channel)
            if known and d[at + 4] & 0xC0 == 0x80 and (d[at + 2] << 8 | d[at + 3]) >= 8:
                self._garbage_run = 0
                return at
            o = at + 1


def _looks_like_message(d: bytes, o: int) -> bool:
    """Whether an answer or a server's request may begin here; also when only its first letters have come."""
    head = d[o : o + 16]
    return any(head.startswith(beginning) or beginning.startswith(head) for beginning in _BEGINNINGS)


def _ignore(d: bytes, start: int, end: int) -> None:
    """Frames before PLAY, or of a track that nobody set up."""


def _no_run(d: bytes, start: int, end: int, head: int) -> int:
    return start
