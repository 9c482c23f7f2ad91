"""Whether files and index agree, camera's day by camera's day: `gridwatch recordings check [--repair]`.

Proven of each day (docs/design/recording.md): a closed file has a row; a row's file is there, of its size and, read to
its end, of its sha256; what is not closed has a marker; a marker's file is not closed. A repair makes rows from files
(so an index that is lost is built anew), cuts torn ends off, and forgets rows without a file.

Incremental: a day whose folder has not changed since it was found right is passed over. Resumable: progress is written
after every day. Reading is held to a rate. Runs beside recording: what is open or young is left alone.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

from ingest.recording.facts import SegmentClosed, SegmentKey
from ingest.recording.files import Files
from ingest.recording.fmp4_read import BadRecordingError, scan
from ingest.recording.layout import OWN, is_day, key_of, path_of
from ingest.recording.recover import close_file, fact_of, not_closed

log = logging.getLogger(__name__)

YOUNG_S = 30.0  # a file that was written to so recently may be on its way to the index

Finding = Literal["no_row", "no_file", "size", "sha256", "torn", "unreadable", "left_open"]


class Index(Protocol):
    """What the checker needs of the database."""

    def rows(self, folder: str, camera_id: str, day: str) -> Mapping[str, SegmentClosed]: ...
    def days(self, folder: str) -> set[tuple[str, str]]: ...
    def put(self, facts: Sequence[SegmentClosed]) -> None: ...
    def delete(self, keys: Sequence[SegmentKey]) -> None: ...


@dataclass
class Report:
    """What a check has found; `repaired` counts findings that are put right."""

    days: int = 0
    passed_over: int = 0
    segments: int = 0
    bytes_read: int = 0
    repaired: int = 0
    findings: list[tuple[Finding, str]] = field(default_factory=list)


class Checker:
    """`run` checks folders; `rate_bytes_s` bounds reading, `read_all` reads every byte instead of sizes alone."""

    def __init__(
        self,
        index: Index,
        progress: Path,
        zone: ZoneInfo,
        *,
        repair: bool = False,
        read_all: bool = True,
        again: bool = False,
        rate_bytes_s: float | None = None,
        files: Files | None = None,
        on_day: Callable[[str, Report], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.report = Report()
        self._index = index
        self._progress = progress
        self._zone = zone
        self._repair = repair
        self._read_all = read_all
        self._again = again
        self._rate_bytes_s = rate_bytes_s
        self._files = files or Files()
        self._on_day = on_day
        self._sleep = sleep
        self._ahead_s = 0.0

    def run(self, folders: Sequence[Path]) -> Report:
        """Check all of them; may be interrupted at any point and called again."""
        done = {} if self._again else self._done()
        for root in folders:
            self._markers(root)
            for camera_id, day in self._days(root):
                name = f"{root}|{camera_id}|{day}"
                state = self._state(root, camera_id, day)
                if state is not None and done.get(name) == [state, self._read_all]:
                    self.report.passed_over += 1
                    continue
                before = len(self.report.findings) - self.report.repaired
                self._check_day(root, camera_id, day)
                self.report.days += 1
                if len(self.report.findings) - self.report.repaired == before:
                    state = self._state(root, camera_id, day)
                    if state is None:
                        done.pop(name, None)
                    else:
                        done[name] = [state, self._read_all]
                    self._save(done)
                if self._on_day is not None:
                    self._on_day(f"{camera_id} {day}", self.report)
        return self.report

    def _days(self, root: Path) -> list[tuple[str, str]]:
        on_disk = {
            (camera.name, day.name)
            for camera in _folders(root)
            if camera.name != OWN
            for day in _folders(Path(camera.path))
            if is_day(day.name)
        }
        return sorted(on_disk | self._index.days(str(root)), key=lambda found: (found[1], found[0]))

    def _check_day(self, root: Path, camera_id: str, day: str) -> None:
        rows = dict(self._index.rows(str(root), camera_id, day))
        still_open = {path_of(key, self._zone) for _, key in not_closed(root)}
        young = time.time() - YOUNG_S
        put: list[SegmentClosed] = []
        gone: list[SegmentKey] = []
        for entry in sorted(_files(root / camera_id / day), key=lambda entry: entry.name):
            path = f"{camera_id}/{day}/{entry.name}"
            key = key_of(path)
            if key is None:
                continue
            row = rows.pop(path, None)
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue  # deleted by retention in the meantime; its row goes too
            if path in still_open or (row is None and status.st_mtime > young):
                continue
            self.report.segments += 1
            if row is not None and row.bytes == status.st_size and not self._read_all:
                continue
            if (fact := self._check_file(root, path, key, row, status.st_size)) is not None:
                put.append(fact)
        for row in rows.values():
            if not (root / row.path).exists():
                self._found("no_file", row.path)
                gone.append(row)
        if self._repair:
            if put:
                self._index.put(put)
            if gone:
                self._index.delete(gone)
            self.report.repaired += len(put) + len(gone)

    def _check_file(
        self, root: Path, path: str, key: SegmentKey, row: SegmentClosed | None, size: int
    ) -> SegmentClosed | None:
        """Reads one file; the row that it should have when it has another or none."""
        try:
            with (root / path).open("rb") as file:
                found = scan(file, read=self._account)
        except FileNotFoundError:
            return None
        except (BadRecordingError, OSError) as error:
            self._found("unreadable", path)
            log.warning("a recording cannot be read", extra={"file": path, "why": str(error)})
            return None
        fact = fact_of(root, path, key, found, recovered=True)
        if found.torn_bytes:
            if row is not None and row.bytes == size:
                # It was whole when it was closed, so the disk has lost bytes in the middle: kept as it is, for people.
                self._found("sha256", path)
                return None
            self._found("torn", path)
            if self._repair:
                with (root / path).open("r+b") as file:
                    file.truncate(found.whole_bytes)
                    self._files.sync(file.fileno())
            return fact if found.frames else None
        if row is None:
            self._found("no_row", path)
        elif row.bytes != size:
            self._found("size", path)
        elif row.sha256 != found.sha256:
            self._found("sha256", path)
            return None  # the row remembers what was recorded; the file has changed since
        else:
            return None
        return fact

    def _markers(self, root: Path) -> None:
        """A marker that no running recorder holds: the next start would close its file; a repair does it now."""
        for marker, key in not_closed(root):
            path = path_of(key, self._zone)
            if self._files.in_use(root / path) or _age_s(marker) < YOUNG_S:
                continue
            self._found("left_open", path)
            if self._repair:
                try:
                    fact = close_file(root, path, key, files=self._files)
                except FileNotFoundError:
                    fact = None
                if fact is not None:
                    self._index.put([fact])
                self._files.remove(marker)
                self.report.repaired += 1

    def _found(self, finding: Finding, path: str) -> None:
        self.report.findings.append((finding, path))

    def _account(self, size: int) -> None:
        self.report.bytes_read += size
        if self._rate_bytes_s:
            now_s = time.monotonic()
            self._ahead_s = max(self._ahead_s, now_s) + size / self._rate_bytes_s
            if self._ahead_s - now_s > 0.05:
                self._sleep(self._ahead_s - now_s)

    # ---- progress

    def _state(self, root: Path, camera_id: str, day: str) -> int | None:
        try:
            return (root / camera_id / day).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _done(self) -> dict[str, list[object]]:
        try:
            body = json.loads(self._progress.read_bytes())
        except (OSError, ValueError):
            return {}
        return body if isinstance(body, dict) else {}

    def _save(self, done: dict[str, list[object]]) -> None:
        temporary = self._progress.with_suffix(".tmp")
        temporary.write_text(json.dumps(done, separators=(",", ":")))
        temporary.replace(self._progress)


def _folders(path: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            yield from (entry for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return


def _files(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if entry.is_file()]
    except FileNotFoundError:
        return []


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
