"""The `Transport` header of SETUP (RFC 2326 12.39): what the server granted. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransportGrant:
    """Either interleaved channels or server ports; `source` is where UDP comes from when not from the TCP peer."""

    channels: tuple[int, int] | None = None
    server_ports: tuple[int, int] | None = None
    source: str | None = None
    ssrc: int | None = None


def parse_transport(value: str) -> TransportGrant:
    """Read a grant; unreadable parameters are left out (cameras write odd `ssrc` and `mode`)."""
    parameters: dict[str, str] = {}
    for part in value.split(",")[0].split(";"):
        key, _, text = part.strip().partition("=")
        parameters.setdefault(key.strip().lower(), text.strip())
    try:
        ssrc = int(parameters["ssrc"], 16) & 0xFFFFFFFF if parameters.get("ssrc") else None
    except ValueError:
        ssrc = None
    return TransportGrant(
        channels=_pair(parameters.get("interleaved"), 255),
        server_ports=_pair(parameters.get("server_port"), 65535),
        source=parameters.get("source") or None,
        ssrc=ssrc,
    )


def _pair(text: str | None, highest: int) -> tuple[int, int] | None:
    if not text:
        return None
    low, dash, high = text.partition("-")
    if not (low.isascii() and low.isdigit() and len(low) < 6):
        return None
    first = int(low)
    second = int(high) if dash and high.isascii() and high.isdigit() and len(high) < 6 else first + 1
    return (first, second) if first <= highest and second <= highest else None
