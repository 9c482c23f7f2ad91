"""RTSP messages (RFC 2326): bytes to `Response` or `Request`, and a request to bytes. No I/O.

Lenient where cameras are sloppy (bare LF, missing reason phrase, header without colon), strict where memory is at
stake: a head is at most `MAX_HEAD_BYTES`, a body at most `MAX_BODY_BYTES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_HEADERS = 100


class MessageError(ValueError):
    """The bytes are no RTSP message; the text says what came, shortened and printable."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: status, reason, headers by lower-case name in order of arrival, body."""

    status: int
    reason: str
    headers: Mapping[str, list[str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        values = self.headers.get(name)
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Request:
    """What a server asks of its client in the middle of a session (OPTIONS, ANNOUNCE, REDIRECT, …)."""

    method: str
    uri: str
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        values = self.headers.get(name)
        return values[0] if values else None


def printable(raw: bytes, limit: int = 60) -> str:
    """The start of foreign bytes as text that is safe in a log and an error sentence."""
    text = raw[:limit].decode("latin-1")
    shown = "".join(c if " " <= c <= "~" else "." for c in text)
    return shown + ("…" if len(raw) > limit else "")


def parse_message(buffer: bytes, start: int = 0) -> tuple[Response | Request | None, int]:
    """Parse one message that begins at `start`.

    Returns:
        (message, offset behind it), or (None, start) while it is incomplete.

    Raises:
        MessageError: malformed, or bigger than the limits.
    """
    crlf = buffer.find(b"\r\n\r\n", start, start + MAX_HEAD_BYTES)
    bare = buffer.find(b"\n\n", start, start + MAX_HEAD_BYTES)
    if crlf < 0 and bare < 0:
        if len(buffer) - start >= MAX_HEAD_BYTES:
            raise MessageError(f"no end of head within {MAX_HEAD_BYTES} bytes: {printable(buffer[start:])}")
        return None, start
    if bare < 0 or 0 <= crlf < bare:
        head, body_start = buffer[start:crlf], crlf + 4
    else:
        head, body_start = buffer[start:bare], bare + 2
    lines = head.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    headers = _headers(lines[1:])
    length = _content_length(headers)
    body_end = body_start + length
    if len(buffer) < body_end:
        return None, start
    body = buffer[body_start:body_end]
    first = lines[0].split(None, 2)
    if len(first) >= 2 and first[0].startswith("RTSP/"):
        if not (len(first[1]) == 3 and first[1].isascii() and first[1].isdigit()):
            raise MessageError(f"bad status line: {printable(head)}")
        return Response(int(first[1]), first[2] if len(first) > 2 else "", headers, body), body_end
    if len(first) == 3 and first[2].startswith("RTSP/"):
        return Request(first[0], first[1], headers, body), body_end
    raise MessageError(f"neither answer nor request: {printable(head)}")


def format_request(method: str, uri: str, headers: Mapping[str, str]) -> bytes:
    """A request without body as bytes. The caller passes clean values: no line breaks."""
    lines = [f"{method} {uri} RTSP/1.0", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("utf-8")


def format_answer(status: int, reason: str, cseq: str | None) -> bytes:
    """An answer to a server's own request."""
    sequence = f"CSeq: {cseq}\r\n" if cseq is not None and cseq.isascii() and cseq.isdigit() else ""
    return f"RTSP/1.0 {status} {reason}\r\n{sequence}\r\n".encode()


def _headers(lines: list[str]) -> dict[str, list[str]]:
    if len(lines) > MAX_HEADERS:
        raise MessageError(f"{len(lines)} header lines, at most {MAX_HEADERS} are read")
    headers: dict[str, list[str]] = {}
    last: list[str] | None = None
    for line in lines:
        if line[:1] in (" ", "\t") and last:
            last[-1] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        if not colon:
            continue
        last = headers.setdefault(name.strip().lower(), [])
        last.append(value.strip())
    return headers


def _content_length(headers: Mapping[str, list[str]]) -> int:
    values = headers.get("content-length")
    if not values:
        return 0
    text = values[0]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise MessageError(f"bad Content-Length: {text[:20]!r}")
    length = int(text)
    if length > MAX_BODY_BYTES:
        raise MessageError(f"Content-Length {length}, at most {MAX_BODY_BYTES} are read")
    return length
