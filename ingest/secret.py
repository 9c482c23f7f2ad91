"""Secrets that do not leak: a type for camera URLs, and the one function that makes a URL printable."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit, urlunsplit


def redact_url(url: str) -> str:
    """`url` with user and password replaced by `***`; safe for logs, pages and error sentences."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


class SecretUrl:
    """A URL that may hold a password. `str()`, `repr()` and formatting show it redacted; only `reveal()` does not."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def reveal(self) -> str:
        """The whole URL; only for opening the connection."""
        return self._url

    @property
    def bare(self) -> str:
        """The URL without its user part: what is sent in an RTSP request line."""
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def credentials(self) -> tuple[str, str] | None:
        """(user, password), percent-decoded, or None."""
        user, at, _ = urlsplit(self._url).netloc.rpartition("@")
        if not at:
            return None
        name, _, password = user.partition(":")
        return unquote(name), unquote(password)

    def with_credentials(self, user: str, password: str) -> SecretUrl:
        """The same URL with another user part."""
        parts = urlsplit(self._url)
        netloc = f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}"
        return SecretUrl(urlunsplit(parts._replace(netloc=netloc)))

    def __str__(self) -> str:
        return redact_url(self._url)

    def __repr__(self) -> str:
        return f"SecretUrl({redact_url(self._url)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretUrl) and other._url == self._url

    def __hash__(self) -> int:
        return hash(self._url)
