"""Secrets that stand elsewhere: `${NAME}` from the environment, `file:` from a file; resolved when a file is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from ingest.errors import GridwatchError
from ingest.model_problems import shown

_PLACEHOLDER = re.compile(r"\$\{(file:)?([^}]*)\}")
_MAX_SECRET_BYTES = 4096


def resolve_secret(text: str, env: Mapping[str, str], folder: Path) -> str:
    """`text` with `${NAME}` (environment) and `${file:path}` put in, or the whole of it from `file:path`.

    A value that lands in the URL's user part is percent-encoded, so passwords are given as they are. Relative paths
    start at `folder`; a file's last line break is not part of the secret.

    Raises:
        GridwatchError: `secret.no_variable`, `secret.bad_name`, `secret.no_file`, with the name and never a value.
    """
    if text.startswith("file:"):
        return _from_file(text.removeprefix("file:"), folder)
    pieces = _PLACEHOLDER.split(text)  # text, "file:" or None, name, text, …
    plain = [*pieces[::3]]
    # A '/' inside ${file:/a/b} ends no host: look for the user part with the placeholders taken out.
    skeleton = "\0".join(plain)
    start = skeleton.find("://") + 3
    end = min((i for i in (skeleton.find(mark, start) for mark in "/?#") if i >= 0), default=len(skeleton))
    at = skeleton.rfind("@", start, end)
    out, length = plain[0], len(plain[0])
    for number, rest in enumerate(plain[1:]):
        is_file, name = pieces[number * 3 + 1 : number * 3 + 3]
        value = _from_file(name, folder) if is_file else _from_environment(name, env)
        out += quote(value, safe="") if length < at else value
        out += rest
        length += 1 + len(rest)
    return out


def _from_environment(name: str, env: Mapping[str, str]) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise GridwatchError("secret.bad_name", name=shown(name))
    if name not in env:
        raise GridwatchError("secret.no_variable", name=name)
    return env[name]


def _from_file(name: str, folder: Path) -> str:
    try:
        with (folder / Path(name).expanduser()).open("rb") as file:
            return file.read(_MAX_SECRET_BYTES).decode().rstrip("\r\n")
    except (OSError, ValueError, RuntimeError) as error:  # missing, no UTF-8 or a NUL in the name, no such ~user
        why = getattr(error, "strerror", None) or type(error).__name__
        raise GridwatchError("secret.no_file", name=shown(name), why=why) from None
