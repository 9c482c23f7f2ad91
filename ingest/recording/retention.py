"""What is deleted when: footage by class, byte budgets, the disk's reserve. One keeper a folder, each in its thread.

Classes of a segment: *continuous* unless a line of its day's `keep.list` overlaps it; *event* for `event_days`;
*evidence* for ever. Order: what is older than its class allows; then, while a budget (camera, folder, all folders) is
exceeded or less than the reserve is free, the oldest continuous footage, then the oldest event footage, never evidence.

Deleting: said to the index durably, then the files. Never a file that is being written or that a reader has locked
(shared `flock`). Announced a day before it takes footage that the settings promise (`retention_short`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from ingest.clock import Clock
from ingest.recording.facts import Fact, RecordingAlarm, SegmentClosed, SegmentKey, SegmentsRemoved
from ingest.recording.files import Files
from ingest.recording.layout import CLOSED, KEEP, KEEPER_LOCK, OWN, USAGE, day_of, is_day, key_of, path_of
from ingest.recording.recover import not_closed
from ingest.recording_settings import GB, Retention

log = logging.getLogger(__name__)

Class = Literal["continuous", "event", "evidence"]
Reason = Literal["age", "camera_budget", "folder_budget", "global_budget", "disk_reserve"]

EVERY_S = 60.0
ANNOUNCE_S = 86_400.0
_BATCH = 200
_DAY_US = 86_400_000_000
_LOW_WATER = 0.995  # below a budget by this, so that not every segment starts a pass


@dataclass(frozen=True)
class Policy:
    """A stream's rules, in microseconds and bytes."""

    continuous_us: int
    event_us: int
    max_bytes: int | None

    @classmethod
    def of(cls, retention: Retention) -> Policy:
        """From settings in which the days are filled in."""
        assert retention.continuous_days is not None and retention.event_days is not None
        continuous = int(retention.continuous_days * _DAY_US)
        return cls(
            continuous,
            max(continuous, int(retention.event_days * _DAY_US)),
            None if retention.max_gb is None else int(retention.max_gb * GB),
        )

    def longest_us(self, kept_as: Class) -> int | None:
        """How long a class is kept; None for ever."""
        return {"continuous": self.continuous_us, "event": self.event_us, "evidence": None}[kept_as]


@dataclass(frozen=True, slots=True)
class Stored:
    """A segment as retention sees it. `end_us` is the following file's start, or a guess that is never too early."""

    key: SegmentKey
    path: str
    bytes: int
    kept_as: Class


@dataclass
class _Day:
    """Bytes of one camera, stream and day; `continuous` is False once a look found none of that class."""

    bytes: int = 0
    files: int = 0
    continuous: bool = True
    due_us: int | None = None  # before this no file of it is too old; None: not looked at


@dataclass
class Usage:
    """Bytes by (camera, stream, day): what budgets go by, without looking at millions of files."""

    days: dict[tuple[str, str, str], _Day] = field(default_factory=dict)

    def add(self, key: SegmentKey, day: str, size: int) -> None:
        """One segment more; a negative size takes one away."""
        found = self.days.setdefault((key.camera_id, key.stream, day), _Day())
        found.bytes += size
        found.files += 1 if size >= 0 else -1
        if size >= 0:
            found.continuous, found.due_us = True, None
        elif found.files <= 0:
            del self.days[key.camera_id, key.stream, day]

    @property
    def bytes(self) -> int:
        """All together."""
        return sum(day.bytes for day in self.days.values())

    def by_stream(self) -> dict[tuple[str, str], int]:
        """Bytes of each camera and stream."""
        found: dict[tuple[str, str], int] = defaultdict(int)
        for (camera_id, stream, _), day in self.days.items():
            found[camera_id, stream] += day.bytes
        return found


class Keeper:
    """Retention of one folder. `sweep` is one pass, for tests and the thread alike."""

    def __init__(
        self,
        root: Path,
        *,
        files: Files,
        tell: Callable[[Fact], None],
        clock: Clock,
        zone: ZoneInfo,
        policy: Callable[[str, str], Policy],
        siblings: Keepers,
        max_bytes: int | None = None,
        reserve_bytes: int = 0,
    ) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.reserve_bytes = reserve_bytes
        self.in_use: set[str] = set()
        self.usage = Usage()
        self.counted = False  # the folder's bytes are known
        self.deleted = 0
        self.deleted_bytes = 0
        self.short = False
        self._files = files
        self._tell = tell
        self._clock = clock
        self._zone = zone
        self._policy = policy
        self._siblings = siblings
        self._lock = threading.Lock()  # guards usage
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"keep {root.name}", daemon=True)
        self._rate_from: tuple[float, int] | None = None
        self._closed_bytes = 0
        self._lock_fd: int | None = None
        self._counted_paths: set[str] = set()  # listed by the count; their lines come too

    # ---- any thread

    def closed(self, fact: SegmentClosed) -> None:
        """A segment more, of this process: a line for whichever process keeps the folder (called by its flusher)."""
        with (self.root / CLOSED).open("a") as file:
            file.write(f"{fact.path} {fact.bytes}\n")

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def start(self) -> None:
        """Begin: count what is there, then look every minute."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End, and leave the counts for the next start; a hung one is left behind."""
        self.end()
        self._thread.join(timeout_s)

    def end(self) -> None:
        """Ask it to end."""
        self._stopped = True
        self._wake.set()

    def keep(self, camera_id: str, start_us: int, end_us: int, kept_as: str) -> None:
        """A line in the list of each day that the time touches; appended in one write, synced."""
        line = f"{start_us} {end_us} {kept_as}\n".encode()
        # A segment that began a day before may reach into the time.
        for day in sorted(
            {day_of(us, self._zone) for us in range(start_us - _DAY_US // 24, end_us + _DAY_US // 24, _DAY_US // 24)}
        ):
            folder = self.root / camera_id / day
            if not folder.is_dir():
                continue
            fd = os.open(folder / KEEP, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o640)
            try:
                os.write(fd, line)
                os.fsync(fd)
            finally:
                os.close(fd)

    # ---- thread

    def _run(self) -> None:
        """Sweeps when it holds the folder's lock; else another process does, and this one waits for its end."""
        while not self._stopped:
            try:
                if self._is_keeper():
                    self.sweep()
                    self.save()
            except Exception:  # disk or spool in trouble: nothing was deleted untold, and the next pass tries again
                log.exception("retention stopped for now", extra={"folder": str(self.root)})
            self._wake.wait(EVERY_S)
            self._wake.clear()
        if self._lock_fd is not None:
            with contextlib.suppress(OSError):
                self._take_closed()
                self.save()
            os.close(self._lock_fd)

    def _is_keeper(self) -> bool:
        if self._lock_fd is None:
            self._files.make_folder(self.root / OWN)
            fd = os.open(self.root / KEEPER_LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            self._lock_fd = fd
        return True

    def _take_closed(self) -> None:
        """Closings of all processes since the last time. A line that comes twice or never is put right by a count."""
        given = self.root / CLOSED
        taken = given.with_suffix(".taken")
        try:
            given.rename(taken)
        except FileNotFoundError:
            return
        for line in taken.read_text(encoding="utf-8", errors="replace").splitlines():
            path, _, size = line.rpartition(" ")
            key = key_of(path)
            if key is None or not size.isdigit() or path in self._counted_paths:
                continue
            with self._lock:
                self.usage.add(key, path.split("/")[1], int(size))
                self._closed_bytes += int(size)
        self._counted_paths = set()
        taken.unlink()

    def count(self) -> None:
        """Bytes of every day: from the saved counts; only days that they do not cover are listed."""
        saved, through = self._saved()
        counted = Usage()
        listed: set[str] = set()
        still_open = {path_of(key, self._zone) for _, key in not_closed(self.root)}
        for camera_id in sorted(self._names(self.root)):
            if camera_id == OWN:
                continue
            for day in self._names(self.root / camera_id):
                if not is_day(day):
                    continue
                known = [(key, saved[key]) for s in ("main", "sub") if (key := (camera_id, s, day)) in saved]
                if known and day < through:
                    for key, (size, files) in known:
                        counted.days[key] = _Day(size, files)
                    continue
                for segment, size, path in self._list(camera_id, day):
                    if path in still_open:
                        continue
                    counted.add(segment, day, size)
                    listed.add(path)
        with self._lock:
            self.usage = counted
            self._counted_paths = listed
            self.counted = True

    def _saved(self) -> tuple[dict[tuple[str, str, str], tuple[int, int]], str]:
        """Saved counts and the first day that they may not know fully; nothing when there are none."""
        try:
            body = json.loads((self.root / USAGE).read_bytes())
            days = {(c, s, d): (int(size), int(files)) for c, s, d, size, files in body["days"]}
            return days, str(body["through"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}, ""

    def save(self) -> None:
        """The counts, replaced whole; the last two days are counted anew at the next start."""
        if not self.counted:
            return
        with self._lock:
            days = [[*key, day.bytes, day.files] for key, day in self.usage.days.items()]
        through = (self._clock.now().astimezone(self._zone) - timedelta(days=1)).strftime("%Y-%m-%d")
        target = self.root / USAGE
        temporary = target.with_suffix(".tmp")
        temporary.write_text(json.dumps({"through": through, "days": days}, separators=(",", ":")))
        temporary.replace(target)

    @staticmethod
    def _names(folder: Path) -> list[str]:
        try:
            with os.scandir(folder) as entries:
                return [entry.name for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []

    def _list(self, camera_id: str, day: str) -> Iterator[tuple[SegmentKey, int, str]]:
        """Closed segments of a folder: key, bytes, path."""
        try:
            with os.scandir(self.root / camera_id / day) as entries:
                found = [(entry.name, entry.stat().st_size) for entry in entries if entry.name.endswith(".mp4")]
        except FileNotFoundError:
            return
        for name, size in sorted(found):
            path = f"{camera_id}/{day}/{name}"
            key = key_of(path)
            if key is not None and path not in self.in_use:
                yield key, size, path

    def stored(self, camera_id: str, day: str) -> list[Stored]:
        """The segments of a camera's day, oldest first, with their classes."""
        marks = self._marks(camera_id, day)
        listed = list(self._list(camera_id, day))
        found: list[Stored] = []
        for number, (key, size, path) in enumerate(listed):
            following = next((k.start_us for k, _, _ in listed[number + 1 :] if k.stream == key.stream), None)
            end_us = min(following or key.start_us + 3_600_000_000, key.start_us + 3_600_000_000)
            kept_as: Class = "continuous"
            for start, end, mark in marks:
                if start < end_us and end > key.start_us and kept_as != "evidence":
                    kept_as = mark
            found.append(Stored(key, path, size, kept_as))
        return found

    def _marks(self, camera_id: str, day: str) -> list[tuple[int, int, Class]]:
        marks: list[tuple[int, int, Class]] = []
        try:
            text = (self.root / camera_id / day / KEEP).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return marks
        for line in text.splitlines():
            words = line.split()
            if len(words) == 3 and words[0].isdigit() and words[1].isdigit():
                # A word that is not known keeps the footage: deleting is what cannot be undone.
                marks.append((int(words[0]), int(words[1]), "event" if words[2] == "event" else "evidence"))
        return marks

    def sweep(self) -> None:
        """One pass: what is too old, then the budgets, then the announcement."""
        if not self.counted:
            self.count()
        self._take_closed()
        now_us = round(self._clock.now().timestamp() * 1_000_000)
        self._age(now_us)
        with self._lock:
            by_stream = self.usage.by_stream()
        for (camera_id, stream), size in by_stream.items():
            limit = self._policy(camera_id, stream).max_bytes
            if limit is not None and size > limit:
                self._free(size - int(limit * _LOW_WATER), "camera_budget", (camera_id, stream))
        if self.max_bytes is not None and self.bytes > self.max_bytes:
            self._free(self.bytes - int(self.max_bytes * _LOW_WATER), "folder_budget")
        if (excess := self._siblings.excess(self)) > 0:
            self._free(excess, "global_budget")
        free = self._files.free_bytes(self.root)
        if free < self.reserve_bytes:
            self._free(self.reserve_bytes - free, "disk_reserve")
        self._announce(now_us)

    @property
    def bytes(self) -> int:
        """Of closed segments here."""
        with self._lock:
            return self.usage.bytes

    def oldest_day(self) -> str:
        """The oldest day with continuous footage, "9999" without any."""
        with self._lock:
            return min((day for (_, _, day), held in self.usage.days.items() if held.continuous), default="9999")

    def _days(self) -> list[tuple[str, str]]:
        with self._lock:
            return sorted({(day, camera_id) for camera_id, _, day in self.usage.days})

    def _age(self, now_us: int) -> None:
        for day, camera_id in self._days():
            with self._lock:
                held = [d for s in ("main", "sub") if (d := self.usage.days.get((camera_id, s, day))) is not None]
            due = [d.due_us for d in held if d.due_us is not None]
            if len(due) == len(held) and min(due, default=0) > now_us:
                continue
            shortest = min(self._policy(camera_id, s).continuous_us for s in ("main", "sub"))
            noon_us = round(_noon_us(day))
            if noon_us + 2 * _DAY_US + shortest < now_us or noon_us - 2 * _DAY_US + shortest < now_us:
                self._age_folder(camera_id, day, now_us)

    def _age_folder(self, camera_id: str, day: str, now_us: int) -> None:
        old: list[Stored] = []
        due_us = now_us + 3650 * _DAY_US
        continuous: dict[str, bool] = defaultdict(bool)
        for stored in self.stored(camera_id, day):
            longest = self._policy(camera_id, stored.key.stream).longest_us(stored.kept_as)
            if longest is not None and stored.key.start_us + longest <= now_us:
                old.append(stored)
                continue
            if longest is not None:
                due_us = min(due_us, stored.key.start_us + longest)
            continuous[stored.key.stream] |= stored.kept_as == "continuous"
        self._delete(old, "age")
        with self._lock:
            for stream in ("main", "sub"):
                if (held := self.usage.days.get((camera_id, stream, day))) is not None:
                    held.due_us, held.continuous = due_us, continuous[stream]

    def _free(self, wanted: int, reason: Reason, of: tuple[str, str] | None = None) -> int:
        """Delete the oldest, by class, until `wanted` bytes are free; returns how many are."""
        freed = 0
        classes: tuple[Class, ...] = ("continuous", "event")
        for kept_as in classes:
            for day in sorted({day for day, _ in self._days()}):
                if freed >= wanted:
                    return freed
                candidates = [
                    stored
                    for other, camera_id in self._days()
                    if other == day and (of is None or of[0] == camera_id) and self._may_hold(camera_id, day, kept_as)
                    for stored in self.stored(camera_id, day)
                    if stored.kept_as == kept_as and (of is None or of[1] == stored.key.stream)
                ]
                candidates.sort(key=lambda stored: stored.key.start_us)
                chosen: list[Stored] = []
                size = 0
                for stored in candidates:
                    if freed + size >= wanted:
                        break
                    if not self._files.in_use(self.root / stored.path):
                        chosen.append(stored)
                        size += stored.bytes
                freed += self._delete(chosen, reason)
        return freed

    def _may_hold(self, camera_id: str, day: str, kept_as: Class) -> bool:
        with self._lock:
            held = [d for s in ("main", "sub") if (d := self.usage.days.get((camera_id, s, day))) is not None]
        return kept_as != "continuous" or any(d.continuous for d in held)

    def _delete(self, chosen: list[Stored], reason: Reason) -> int:
        freed = 0
        for start in range(0, len(chosen), _BATCH):
            batch = [
                stored
                for stored in chosen[start : start + _BATCH]
                if stored.path not in self.in_use and not self._files.in_use(self.root / stored.path)
            ]
            if not batch:
                continue
            self._tell(SegmentsRemoved(reason=reason, segments=tuple(stored.key for stored in batch)))
            for stored in batch:
                self._files.remove(self.root / stored.path)
                with self._lock:
                    self.usage.add(stored.key, stored.path.split("/")[1], -stored.bytes)
                freed += stored.bytes
                self.deleted += 1
            for folder in {(self.root / stored.path).parent for stored in batch}:
                self._tidy(folder)
        self.deleted_bytes += freed
        return freed

    @staticmethod
    def _tidy(folder: Path) -> None:
        """An empty day's folder goes, with its list; one with anything else in it stays."""
        with contextlib.suppress(OSError):
            if [entry.name for entry in os.scandir(folder)] == [KEEP]:
                (folder / KEEP).unlink()
            folder.rmdir()

    def _announce(self, now_us: int) -> None:
        """At the present rate, is footage taken within a day that the settings promise to keep?"""
        now_s = self._clock.monotonic_s()
        if self._rate_from is None or now_s - self._rate_from[0] > ANNOUNCE_S:
            self._rate_from = now_s, self._closed_bytes
        since_s, since_bytes = self._rate_from
        if now_s - since_s < EVERY_S:
            return
        rate = (self._closed_bytes - since_bytes) / (now_s - since_s)
        room = self._files.free_bytes(self.root) - self.reserve_bytes
        if self.max_bytes is not None:
            room = min(room, self.max_bytes - self.bytes)
        if (left := self._siblings.room()) is not None:
            room = min(room, left)
        oldest = self.oldest_day()
        promised = oldest != "9999" and _noon_us(oldest) + self._policy("", "main").continuous_us > now_us + _DAY_US
        short = promised and rate > 0 and room < rate * ANNOUNCE_S
        if short != self.short:
            self.short = short
            self._tell(
                RecordingAlarm(
                    kind="retention_short",
                    state="opened" if short else "closed",
                    at=self._clock.now(),
                    folder=str(self.root),
                    detail=f"room {max(0, room)} bytes, {rate:.0f} bytes a second, oldest day {oldest}",
                )
            )


class Keepers:
    """The keepers of all folders; what they share is the global budget."""

    def __init__(self, max_bytes: int | None) -> None:
        self.max_bytes = max_bytes
        self._all: dict[Path, Keeper] = {}

    def add(self, keeper: Keeper) -> None:
        """One folder more."""
        self._all[keeper.root] = keeper

    def start(self) -> None:
        """All threads."""
        for keeper in self._all.values():
            keeper.start()

    def stop(self, timeout_s: float) -> None:
        """All threads, at once."""
        until_s = time.monotonic() + timeout_s
        for keeper in self._all.values():
            keeper.end()
        for keeper in self._all.values():
            keeper.stop(max(0.0, until_s - time.monotonic()))

    def wake(self, root: Path) -> None:
        """One folder needs room now."""
        self._all[root].wake()

    def closed(self, root: Path, fact: SegmentClosed) -> None:
        """A segment that the start has closed."""
        self._all[root].closed(fact)

    def excess(self, keeper: Keeper) -> int:
        """Bytes over the global budget that this folder is to free: the folder with the oldest footage has to."""
        if self.max_bytes is None:
            return 0
        total = sum(other.bytes for other in self._all.values())
        if total <= self.max_bytes:
            return 0
        oldest = min(self._all.values(), key=lambda other: (other.oldest_day(), str(other.root)))
        return total - int(self.max_bytes * _LOW_WATER) if oldest is keeper else 0

    def room(self) -> int | None:
        """Bytes left of the global budget, None without one."""
        return None if self.max_bytes is None else self.max_bytes - sum(other.bytes for other in self._all.values())

    def keep(self, camera_id: str, start_s: float, end_s: float, kept_as: str) -> None:
        """In every folder, since a camera's day may lie in several."""
        for keeper in self._all.values():
            keeper.keep(camera_id, round(start_s * 1_000_000), round(end_s * 1_000_000), kept_as)

    def stats(self, root: Path) -> dict[str, float | int | bool]:
        """For the recorder's figures."""
        keeper = self._all[root]
        return {
            "used_bytes": keeper.bytes,
            "deleted": keeper.deleted,
            "deleted_bytes": keeper.deleted_bytes,
            "retention_short": keeper.short,
        }


def _noon_us(day: str) -> int:
    """Somewhere in a day, within 26 hours of all of it in any time zone."""
    return round(datetime.strptime(day, "%Y-%m-%d").replace(hour=12, tzinfo=UTC).timestamp() * 1_000_000)
