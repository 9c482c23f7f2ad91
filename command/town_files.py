"""The user's two files, streams.yaml and grids.geojson: found changed by their content, read whole, judged.

Editors write a new file and rename it, or write in place in several steps: so a change is what two looks in a row find
the same and different from what was judged last. Reading never changes anything; who reads decides what to take.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from command.accepted_town import Refusal
from command.grids import Grids, read_grids
from ingest.source_lines import Problem
from ingest.streams import Streams, read_streams

_Stat = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class ReadTown:
    """What the files hold. `streams` and `grids` are the good part of each, None if there is none."""

    streams: Streams | None
    grids: Grids | None
    grids_bytes: bytes
    problems: tuple[Problem, ...]
    digest: str

    @property
    def errors(self) -> list[Problem]:
        """What forbids to take an edit."""
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def refusal(self) -> Refusal | None:
        """Why an edit is not taken, or None."""
        if not (errors := self.errors):
            return None
        first = errors[0]
        return Refusal(
            file=first.file,
            line=first.line,
            count=len(errors),
            first_zh=first.sentence("zh"),
            first_en=first.sentence("en"),
        )


class TownFiles:
    """`changed` is for a loop that looks every half second; `read` takes a second or so of CPU: in a thread."""

    def __init__(self, streams: Path, grids: Path) -> None:
        self._paths = streams, grids
        self._stat: _Stat | None = None
        self._judged: str | None = None
        self._unsettled: str | None = None

    def changed(self) -> bool:
        """Whether there is content that has settled and was not judged yet."""
        now = self._look()
        if now == self._stat and self._unsettled is None:
            return False
        self._stat = now
        digest = self._digest()
        settled = digest == self._unsettled
        if digest == self._judged:
            self._unsettled = None
            return False
        self._unsettled = None if settled else digest
        return settled

    def read(self) -> ReadTown:
        """Both files as they are now; counts as judged. Reads again when they change meanwhile."""
        streams_path, grids_path = self._paths
        while True:
            digest = self._digest()
            streams, problems = read_streams(streams_path)
            grids, more = read_grids(grids_path)
            content = _content(grids_path)
            if self._digest() == digest:
                break
        self._judged, self._unsettled = digest, None
        return ReadTown(streams, grids, content, (*problems, *more), digest)

    def _look(self) -> _Stat:
        return tuple(_stat(path) for path in self._paths)

    def _digest(self) -> str:
        return " ".join(hashlib.sha256(_content(path)).hexdigest() for path in self._paths)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # missing between two steps of an editor, or for good: then `read` says so
        return b""
