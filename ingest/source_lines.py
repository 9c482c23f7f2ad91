"""Where things stand in a user's file: plain data from YAML or JSON together with the line of each value.

A user's file is read whole, turned into plain Python data and `lines` (path -> line), checked by the noun's own models,
and forgotten. Whatever is wrong becomes a `Problem`, so that one reading tells all that is to be mended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ingest.errors import GridwatchError, sentence

Place = tuple[str | int, ...]

_MAX_BYTES = 64 * 2**20
_MAX_NODES = 500_000  # a few lines of YAML aliases can stand for billions of values
_MAX_DEPTH = 60


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a user's file; `str()` gives nothing away that `facts` does not hold (no credentials)."""

    file: str
    line: int  # from 1
    code: str
    facts: dict[str, Any] = field(default_factory=dict)
    subject: tuple[str, str] | None = None  # ("camera", "c-012"), ("grid", "g-017"); None: the file itself
    severity: Literal["error", "warning"] = "error"

    def sentence(self, lang: str = "zh") -> str:
        """What is wrong and what to do, with the camera or grid in front; without file and line."""
        text = sentence(self.code, lang, **self.facts)
        if self.subject is None:
            return text
        return sentence(f"{self.subject[0]}.named", lang, id=self.subject[1], text=text)

    def error(self) -> GridwatchError:
        """The same as an exception."""
        return GridwatchError(self.code, **self.facts, file=self.file, line=self.line)


@dataclass
class Source:
    """A parsed file. `data` is plain (dict, list, str, int, float, bool, None); keys of mappings are strings."""

    file: str
    data: Any
    lines: dict[Place, int] = field(default_factory=dict)  # of each value; a mapping's entry counts from its key
    twice: list[tuple[Place, int]] = field(default_factory=list)  # keys given again, with the line; the first holds

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest thing around it that has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def duplicate_keys(self, subject_at: Callable[[Place], tuple[str, str] | None]) -> list[Problem]:
        """A problem for each key that stands twice in one mapping."""
        return [
            Problem(
                self.file,
                line,
                "file.duplicate_key",
                {"key": str(place[-1]), "first_line": self.line(place)},
                subject_at(place),
            )
            for place, line in self.twice
        ]


class _ReadError(Exception):
    def __init__(self, line: int, code: str, **facts: Any) -> None:
        super().__init__(code)
        self.line, self.code, self.facts = line, code, facts


def read_source(path: Path, shown: str | None = None) -> tuple[Source | None, list[Problem]]:
    """Parse `path`: JSON if its name ends in .json or .geojson, YAML 1.2 otherwise (so `off` and 08:00 are texts).

    Never raises for what the file holds: a file that cannot be parsed gives (None, [one problem]).
    `shown` is the file's name in problems (default: `path` as given).
    """
    name = shown or str(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _ReadError(1, "file.too_big", mb=_MAX_BYTES // 2**20)
        text = path.read_text(encoding="utf-8-sig")
        source = Source(name, None)
        reader = _Json if path.suffix.lower() in (".json", ".geojson") else _Yaml
        source.data = reader(source).read(text)
    except FileNotFoundError:
        return None, [Problem(name, 1, "file.missing")]
    except OSError as error:
        return None, [Problem(name, 1, "file.unreadable", {"why": error.strerror or type(error).__name__})]
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return None, [Problem(name, line, "file.not_utf8")]
    except _ReadError as error:
        return None, [Problem(name, error.line, error.code, error.facts)]
    return source, []


class _Yaml:
    """Walks ruamel.yaml's node graph, which carries a mark for every node."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._nodes = 0
        self._yaml = YAML(typ="safe", pure=True)

    def read(self, text: str) -> Any:
        try:
            root = self._yaml.compose(text)
            return None if root is None else self._value(root, (), root.start_mark.line + 1)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            why = " ".join(str(error.problem or error.context or "").split())
            raise _ReadError(mark.line + 1 if mark else 1, "file.not_yaml", why=why) from None
        except (YAMLError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise _ReadError(getattr(error, "line", 0) + 1, "file.not_yaml", why=why) from None

    def _value(self, node: Node, place: Place, line: int) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(place) > _MAX_DEPTH:
            raise _ReadError(line, "file.too_deep")
        self._source.lines[place] = line
        if isinstance(node, MappingNode):
            return self._mapping(node, place)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*place, i), item.start_mark.line + 1) for i, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        if node.tag in (None, "tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"):
            return node.value
        return self._yaml.constructor.construct_object(node, deep=True)

    def _mapping(self, node: MappingNode, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: list[MappingNode] = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge" or (isinstance(key, ScalarNode) and key.value == "<<"):
                merged += value.value if isinstance(value, SequenceNode) else [value]
                continue
            name = str(key.value) if isinstance(key, ScalarNode) else "?"
            if name in found:
                self._source.twice.append(((*place, name), line))
                continue
            found[name] = self._value(value, (*place, name), line)
        for other in merged:
            if not isinstance(other, MappingNode):
                raise _ReadError(other.start_mark.line + 1, "file.not_yaml", why="<< needs a mapping")
            for name, given in self._mapping(other, (*place, "<<")).items():
                if name not in found:
                    found[name] = given
                    self._source.lines[(*place, name)] = self._source.lines[(*place, "<<", name)]
        return found


class _Json:
    """Python's `json` judges the syntax; a scan of the same text then only has to remember lines."""

    _TOKEN = re.compile(r'[{}\[\],:]|"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+')

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, text: str) -> Any:
        try:
            json.loads(text, parse_constant=self._constant)
        except json.JSONDecodeError as error:
            raise _ReadError(error.lineno, "file.not_json", why=error.msg, column=error.colno) from None
        except RecursionError:
            raise _ReadError(1, "file.too_deep") from None
        except ValueError as error:  # NaN, Infinity, or a number of thousands of digits
            raise _ReadError(1, "file.not_json", why=str(error), column=1) from None
        self._text, self._line, self._at = text, 1, 0
        self._tokens = self._TOKEN.finditer(text)
        return self._value(self._next(), ())

    @staticmethod
    def _constant(name: str) -> float:
        raise ValueError(f"{name} is no JSON number")

    def _next(self) -> str:
        piece = next(self._tokens)
        self._line += self._text.count("\n", self._at, piece.start())
        self._at = piece.start()
        return piece.group()

    def _value(self, piece: str, place: Place) -> Any:
        self._source.lines.setdefault(place, self._line)
        if len(place) > _MAX_DEPTH:
            raise _ReadError(self._line, "file.too_deep")
        if piece == "{":
            return self._object(place)
        if piece == "[":
            items: list[Any] = []
            while (piece := self._next()) != "]":
                if piece != ",":
                    items.append(self._value(piece, (*place, len(items))))
            return items
        return json.loads(piece)

    def _object(self, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (piece := self._next()) != "}":
            if piece == ",":
                continue
            name = json.loads(piece)
            line = self._line
            self._next()  # the colon
            if name in found:
                self._source.twice.append(((*place, name), line))
                self._value(self._next(), (*place, name, "again"))
                continue
            self._source.lines[(*place, name)] = line
            found[name] = self._value(self._next(), (*place, name))
        return found
