"""Session descriptions (SDP, RFC 8866) as far as a camera's video track needs them. No I/O.

A bad line is skipped, never fatal: cameras write many. What counts is `m=video`, `a=rtpmap`, `a=fmtp`, `a=control`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from ingest.access_unit import Codec

MAX_MEDIA = 32
MAX_PARAMETER_SET_BYTES = 4096
_CODECS: dict[str, Codec] = {"H264": "h264", "H265": "hevc", "HEVC": "hevc"}


@dataclass(slots=True)
class Media:
    """One `m=` section: kind, payload type, encoding and clock rate from `rtpmap`, `fmtp` parameters, control URL."""

    kind: str
    payload_type: int
    encoding: str = ""
    clock_hz: int = 0
    parameters: dict[str, str] = field(default_factory=dict)
    control: str | None = None

    @property
    def codec(self) -> Codec | None:
        """The codec as the rest of the program names it, or None when it is none that is read."""
        return _CODECS.get(self.encoding)

    @property
    def interleaved(self) -> bool:
        """Whether units come out of decoding order (RFC 6184 mode 2, RFC 7798 DON): nobody's camera, not read."""
        return self.parameters.get("packetization-mode") == "2" or self.parameters.get(
            "sprop-max-don-diff", "0"
        ) not in ("0", "")

    def parameter_sets(self) -> list[bytes]:
        """The NAL units that `fmtp` carries, in order VPS, SPS, PPS; what cannot be decoded is left out."""
        if self.codec == "h264":
            texts = self.parameters.get("sprop-parameter-sets", "").split(",")
        else:
            texts = [
                text
                for name in ("sprop-vps", "sprop-sps", "sprop-pps")
                for text in self.parameters.get(name, "").split(",")
            ]
        return [nal for nal in map(_nal_from_base64, texts) if nal]


@dataclass(slots=True)
class SessionDescription:
    """The session's aggregate control URL as written, and its media."""

    control: str | None
    media: list[Media]

    def video(self) -> Media | None:
        """The first video track in a codec that is read, else the first video track, else None."""
        videos = [media for media in self.media if media.kind == "video"]
        return next((media for media in videos if media.codec), videos[0] if videos else None)


def parse_sdp(body: bytes) -> SessionDescription:
    """Read a description; anything that is not understood is skipped, so the result may be empty."""
    session = SessionDescription(None, [])
    current: Media | None = None
    for line in body.decode("utf-8", "replace").replace("\r", "\n").split("\n"):
        kind, equals, value = line.partition("=")
        if not equals:
            continue
        kind, value = kind.strip(), value.strip()
        if kind == "m":
            if len(session.media) >= MAX_MEDIA:
                break
            current = _media(value)
            if current:
                session.media.append(current)
        elif kind == "a":
            name, _, argument = value.partition(":")
            if name == "control":
                if current is not None:
                    current.control = argument.strip()
                elif not session.media:
                    session.control = argument.strip()
            elif current is not None:
                _attribute(current, name, argument.strip())
    return session


def join_control(base: str, control: str | None) -> str:
    """The URL that a control attribute names (RFC 2326 C.1.1).

    Appended to the base as text, behind its query too, since that is what cameras with a query in their path expect
    (`…?channel=1&subtype=0/trackID=0`); only a leading slash replaces the path.
    """
    if control is None or control in ("", "*"):
        return base
    if control[:7].lower() == "rtsp://" or control[:8].lower() == "rtsps://":
        return control
    if control.startswith("/"):
        parts = urlsplit(base)
        return urlunsplit((parts.scheme, parts.netloc, "", "", "")) + control
    return base.rstrip("/") + "/" + control


def _media(value: str) -> Media | None:
    words = value.split()
    if len(words) < 4:
        return None
    try:
        payload_type = int(words[3])
    except ValueError:
        return None
    return Media(words[0].lower(), payload_type) if 0 <= payload_type < 128 else None


def _attribute(media: Media, name: str, argument: str) -> None:
    if name not in ("rtpmap", "fmtp"):
        return
    number, _, rest = argument.partition(" ")
    if number != str(media.payload_type):
        return
    if name == "rtpmap":
        encoding, _, rate = rest.strip().partition("/")
        media.encoding = encoding.strip().upper()
        rate = rate.split("/")[0].strip()
        media.clock_hz = int(rate) if rate.isascii() and rate.isdigit() and len(rate) < 9 else 0
        return
    for part in rest.split(";"):
        key, _, text = part.strip().partition("=")
        if key:
            media.parameters[key.strip().lower()] = text.strip()


def _nal_from_base64(text: str) -> bytes:
    text = text.strip().strip('"').rstrip("=")
    if not text or len(text) > MAX_PARAMETER_SET_BYTES * 4 // 3:
        return b""
    try:
        nal = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
    if nal.startswith((b"\0\0\0\1", b"\0\0\1")):
        nal = nal[nal.index(1) + 1 :]
    # Some cameras encode the next start code with it; a NAL unit never ends in zero bytes (H.264 7.4.1).
    return nal.removesuffix(b"\0\0\1").rstrip(b"\0")
