"""Authentication of RTSP requests: Digest with MD5 and SHA-256 (RFC 7616; RFC 2617 without qop), Basic. No I/O."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

_SCHEME = re.compile(r"(?:^|,)\s*(Digest|Basic)\b", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_HASHES = {"MD5": "md5", "SHA-256": "sha256"}
_MAX_CHALLENGE_CHARS = 4096


@dataclass(frozen=True, slots=True)
class Challenge:
    """What one `WWW-Authenticate` offer says; `algorithm` is "" for Basic."""

    algorithm: str
    realm: str
    nonce: str = ""
    opaque: str | None = None
    qop_auth: bool = False
    stale: bool = False

    @property
    def strength(self) -> int:
        """SHA-256 over MD5 over Basic."""
        return {"SHA-256": 2, "MD5": 1}.get(self.algorithm.removesuffix("-SESS"), 0)


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """The offers of all `WWW-Authenticate` headers, strongest first; unknown schemes and algorithms are left out."""
    challenges: list[Challenge] = []
    for value in values:
        text = value[:_MAX_CHALLENGE_CHARS]
        starts = list(_SCHEME.finditer(_QUOTED.sub(lambda quoted: '"' * len(quoted[0]), text)))
        for index, match in enumerate(starts):
            end = starts[index + 1].start() if index + 1 < len(starts) else len(text)
            challenge = _challenge(match.group(1).lower(), text[match.end() : end])
            if challenge:
                challenges.append(challenge)
    return sorted(challenges, key=lambda challenge: -challenge.strength)


class Authenticator:
    """Answers one challenge for the rest of a session; counts nonce uses."""

    def __init__(self, challenge: Challenge, user: str, password: str) -> None:
        self.challenge = challenge
        self._user = user
        self._password = password
        self._count = 0

    def header(self, method: str, uri: str) -> str:
        """The `Authorization` header's value for a request; `uri` exactly as in its request line."""
        challenge = self.challenge
        if not challenge.algorithm:
            token = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
            return f"Basic {token}"
        self._count += 1
        session_key = challenge.algorithm.endswith("-SESS")
        name = _HASHES[challenge.algorithm.removesuffix("-SESS")]

        def digest(text: str) -> str:
            return hashlib.new(name, text.encode(), usedforsecurity=False).hexdigest()

        cnonce, count = secrets.token_hex(8), f"{self._count:08x}"
        key = digest(f"{self._user}:{challenge.realm}:{self._password}")
        if session_key:
            key = digest(f"{key}:{challenge.nonce}:{cnonce}")
        request = digest(f"{method}:{uri}")
        middle = f"{challenge.nonce}:{count}:{cnonce}:auth" if challenge.qop_auth else challenge.nonce
        parts = [
            f'username="{_quote(self._user)}"',
            f'realm="{_quote(challenge.realm)}"',
            f'nonce="{_quote(challenge.nonce)}"',
            f'uri="{uri}"',
            f'response="{digest(f"{key}:{middle}:{request}")}"',
        ]
        if challenge.algorithm != "MD5":
            parts.append(f"algorithm={challenge.algorithm.replace('-SESS', '-sess')}")
        if challenge.qop_auth:
            parts += ["qop=auth", f"nc={count}"]
        if challenge.qop_auth or session_key:
            parts.append(f'cnonce="{cnonce}"')
        if challenge.opaque is not None:
            parts.append(f'opaque="{_quote(challenge.opaque)}"')
        return "Digest " + ", ".join(parts)


def _challenge(scheme: str, text: str) -> Challenge | None:
    parameters = {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else bare
        for name, quoted, bare in _PARAMETER.findall(text)
    }
    if scheme == "basic":
        return Challenge("", parameters.get("realm", ""))
    algorithm = parameters.get("algorithm", "MD5").upper()
    if algorithm.removesuffix("-SESS") not in _HASHES or "nonce" not in parameters:
        return None
    offered = [word.strip().lower() for word in parameters.get("qop", "").split(",")]
    return Challenge(
        algorithm=algorithm,
        realm=parameters.get("realm", ""),
        nonce=parameters["nonce"],
        opaque=parameters.get("opaque"),
        qop_auth="auth" in offered,
        stale=parameters.get("stale", "").lower() == "true",
    )


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
