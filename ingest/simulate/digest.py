"""Digest access authentication, the server's side (RFC 7616 with the RTSP method names of RFC 2326)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from typing import Final

from ingest.simulate.camera import DigestAlgorithms

REALM: Final = "Gridwatch simulated camera"
NONCE_LIFE_S: Final = 300
_HASHES: Final = {"md5": hashlib.md5, "sha-256": hashlib.sha256}
_PAIR: Final = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,"]*))')


class DigestGate:
    """Makes challenges and checks answers. Nonces carry their time under a key, so nothing is kept for each."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)

    def challenges(self, algorithms: DigestAlgorithms, stale: bool = False) -> list[str]:
        """The values of `WWW-Authenticate`, best algorithm first."""
        offered = ("SHA-256", "MD5") if algorithms == "both" else (algorithms.upper(),)
        nonce = self._nonce(int(time.monotonic()))
        tail = ", stale=TRUE" if stale else ""
        return [f'Digest realm="{REALM}", nonce="{nonce}", algorithm={name}, qop="auth"{tail}' for name in offered]

    def accepts(self, authorization: str, method: str, user: str, password: str, algorithms: DigestAlgorithms) -> bool:
        """True when the header proves the password for this method. Hostile headers are False, never an error."""
        scheme, _, rest = authorization.partition(" ")
        if scheme.lower() != "digest":
            return False
        given = {key.lower(): quoted or bare for key, quoted, bare in _PAIR.findall(rest)}
        algorithm = given.get("algorithm", "MD5").lower()
        if algorithm not in _HASHES or algorithms not in ("both", algorithm):
            return False
        if given.get("username") != user or given.get("realm") != REALM or not self._fresh(given.get("nonce", "")):
            return False

        def digest(text: str) -> str:
            return _HASHES[algorithm](text.encode("utf-8", "replace")).hexdigest()

        secret, action = digest(f"{user}:{REALM}:{password}"), digest(f"{method}:{given.get('uri', '')}")
        if given.get("qop") == "auth":
            middle = f"{given['nonce']}:{given.get('nc', '')}:{given.get('cnonce', '')}:auth"
        else:
            middle = given["nonce"]  # clients of RFC 2069, still common in RTSP
        expected = digest(f"{secret}:{middle}:{action}")
        return hmac.compare_digest(expected.encode(), given.get("response", "").lower().encode("utf-8", "replace"))

    def _nonce(self, made_s: int) -> str:
        stamp = f"{made_s:x}"
        return f"{stamp}-{hmac.new(self._key, stamp.encode(), hashlib.sha256).hexdigest()[:24]}"

    def _fresh(self, nonce: str) -> bool:
        stamp, _, _ = nonce.partition("-")
        try:
            made_s = int(stamp, 16)
        except ValueError:
            return False
        own = hmac.compare_digest(self._nonce(made_s).encode(), nonce.encode("utf-8", "replace"))
        return own and time.monotonic() - made_s <= NONCE_LIFE_S
