"""Errors as sentences: a stable dotted code, the facts, and one sentence a language from `messages/*.toml`.

Each layer has a `messages/` folder, a TOML file a noun, of tables `["check.unknown_key"] zh = "…" en = "…"` with
`{fact}` places, and registers it in its `__init__`. A code names the subject first (`camera.`, `grid.`, `config.`),
never changes its meaning, and is what logs and API answers carry beside the sentence. Logs speak English, people
Chinese or English.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files

_catalogue: dict[str, dict[str, str]] = {}

LANGUAGES = ("zh", "en")


def register_messages(package: str) -> None:
    """Read `<package>/messages/*.toml` into the catalogue.

    Raises:
        ValueError: a code is defined twice or lacks a language; found at import, so never in front of a user.
    """
    for source in sorted((files(package) / "messages").iterdir(), key=lambda entry: entry.name):
        if not source.name.endswith(".toml"):
            continue
        for code, sentences in tomllib.loads(source.read_text(encoding="utf-8")).items():
            if set(sentences) != set(LANGUAGES):
                raise ValueError(f"{package}/messages/{source.name}: {code!r} needs exactly the languages {LANGUAGES}")
            if code in _catalogue and _catalogue[code] != sentences:
                raise ValueError(f"{package}/messages/{source.name}: {code!r} is already defined elsewhere")
            _catalogue[code] = sentences


def sentence(code: str, lang: str = "zh", **facts: object) -> str:
    """The sentence of a code in a language, with its facts put in; an unknown code is shown with its facts, bare."""
    entry = _catalogue.get(code)
    if entry is None:
        return f"{code}: " + ", ".join(f"{k}={v}" for k, v in facts.items())
    return entry.get(lang, entry["en"]).format_map(_Facts(facts))


class _Facts(dict[str, object]):
    """Keeps a sentence readable when a fact was forgotten, instead of raising inside error handling."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


class GridwatchError(Exception):
    """An error that a person reads: `GridwatchError("camera.refused", camera="c-012", why="…")`.

    `str(error)` is the English sentence with its code in front (for logs); `error.sentence("zh")` is for people.
    Facts never hold a credential: pass URLs through `ingest.secret.redact_url` first.
    """

    def __init__(self, code: str, **facts: object) -> None:
        super().__init__(code)
        self.code = code
        self.facts = facts

    def sentence(self, lang: str = "zh") -> str:
        """The sentence in `lang` ("zh" or "en")."""
        return sentence(self.code, lang, **self.facts)

    def __str__(self) -> str:
        return f"[{self.code}] {self.sentence('en')}"
