"""The door: what is refused before any route runs, and the headers that every answer carries.

Refused: a foreign Host header (DNS rebinding: a web page that points its own name at 127.0.0.1), and a state-changing
request or WebSocket that another site's page sends (Origin, Fetch Metadata). Programs send no Origin and pass.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from command.web.answers import problem
from command.web.rights import is_loopback
from ingest.errors import GridwatchError

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
BODY_BYTES: Final = 64 * 1024
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def _announced_bytes(scope: Scope) -> int:
    """The body's length as announced; what comes without a length is counted by the framework as it is read."""
    given = Headers(scope=scope).get("content-length", "0")
    return int(given) if given.isascii() and given.isdigit() else 0


def _host_of(netloc: str) -> str:
    """`127.0.0.1:8480` or `[::1]:8480` without its port."""
    if netloc.startswith("["):
        return netloc.partition("]")[0].lstrip("[")
    return netloc.rpartition(":")[0] if ":" in netloc else netloc


def refusal(scope: Scope) -> GridwatchError | None:
    """Why this request may not pass, or None."""
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if not is_loopback(_host_of(host)):
        return GridwatchError("web.foreign_host", host=host[:100])
    if scope["type"] == "http" and scope["method"] in SAFE_METHODS:
        return None
    origin = headers.get("origin")
    if origin is not None:
        if origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return GridwatchError("web.foreign_origin", origin=origin[:100])
    elif headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return GridwatchError("web.foreign_origin", origin=headers["sec-fetch-site"])
    return None


class Guard:
    """Outermost ASGI layer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
            await send(message)

        refused, status = refusal(scope), 403
        if refused is None and _announced_bytes(scope) > BODY_BYTES:
            refused, status = GridwatchError("web.too_large", limit_kib=BODY_BYTES // 1024), 413
        if refused is None:
            await self._app(scope, receive, send_guarded)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refused.code})
        else:
            answer = problem(HTTPConnection(scope), refused, status)
            await answer(scope, receive, send_guarded)
