"""Secrets that do not leak: a type for camera URLs, and the one function that makes a URL printable."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

# Some makers' paths hold the password: /user=admin&password=x&channel=1 and /user=admin_password=x_channel=1.
_PASSWORD_IN_PATH = re.compile(r"((?:password|passwd|pass|pwd|token)=)[^&;/?#]+", re.IGNORECASE)


def redact_url(url: str) -> str:
    """`url` with user and password replaced by `***`; safe for logs, pages and error sentences.

    Takes anything. All before an `@` in the path is hidden too, since an unescaped `/` in a password moves the place
    where a parser would look for it: rather too much hidden than too little.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    host, slash, path = rest.partition("/")
    if "@" in host:
        rest = "***@" + host.rpartition("@")[2] + slash + path
    if "@" in path and ("@" not in host or not _names_a_host(host.rpartition("@")[2])):
        rest = "***@" + path.rpartition("@")[2]
    return scheme + mark + _PASSWORD_IN_PATH.sub(r"\1***", rest)


def _names_a_host(text: str) -> bool:
    return re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]@\s]+)(:\d+)?", text) is not None


def url_fault(url: str) -> str | None:
    """Why `url` cannot be a camera's: "scheme", "host", "port", "user" or "characters"; None if it can."""
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        return "characters"
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() not in ("rtsp", "rtsps"):
        return "scheme"
    netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host = netloc.rpartition("@")[2]
    if not host or re.fullmatch(r":\d*", host):
        return "host"
    if not _names_a_host(host):
        # "user:pa/ss@host" leaves "user:pa" here: the password needs its special characters percent-encoded.
        return "user" if "@" in rest.removeprefix(netloc) else "port"
    port = host.rpartition(":")[2] if host.count(":") == 1 or "]:" in host else ""
    if port and not 0 < int(port) < 65536:
        return "port"
    return None


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

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """In models: read from a string, shown and serialised redacted."""
        return core_schema.no_info_plain_validator_function(
            cls._checked,
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^([rR][tT][sS][pP][sS]?://|file:|\$\{)"}

    @classmethod
    def _checked(cls, given: object) -> SecretUrl:
        if isinstance(given, cls):
            return given
        if not isinstance(given, str):
            raise PydanticKnownError("string_type")
        if fault := url_fault(given):
            raise PydanticCustomError("camera.bad_url", "not a camera URL", {"fault": fault, "url": redact_url(given)})
        return cls(given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretUrl) and other._url == self._url

    def __hash__(self) -> int:
        return hash(self._url)
