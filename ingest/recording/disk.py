"""One recording folder (one disk) and its two threads: all that may block happens there.

The *writer* puts fragments into files, which usually ends in the page cache. The *flusher* makes them durable, each
open file once in `sync_every_s`, spread over that time, and closes files: sync, folder sync, tell the index (durable),
remove the marker. So a slow flush delays no write. A fact that the spool refuses stays here until it is taken.

A hung disk hangs its threads and nobody else: the event loop sees that jobs wait (`queued_bytes`, `stalled_s`), stops
giving it footage and sends the streams to other folders.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from ingest.access_unit import AccessUnit
from ingest.recording.facts import Fact, SegmentClosed
from ingest.recording.files import Files
from ingest.recording.layout import OPEN
from ingest.recording.segment import Segment

log = logging.getLogger(__name__)

RETRY_FULL_S = 2.0
_IDLE_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Job(NamedTuple):
    """Footage for a segment; `close` ends it behind that."""

    segment: Segment
    units: list[AccessUnit]
    end_dts: int | None
    close: bool


class Disk:
    """`submit` from the event loop; figures may be read from anywhere."""

    def __init__(
        self,
        root: Path,
        *,
        tell: Callable[[Fact], None],
        zone: ZoneInfo,
        sync_every_s: float,
        reserve_bytes: int = 0,
        max_bytes: int | None = None,
        files: Files | None = None,
        on_closed: Callable[[SegmentClosed], None] | None = None,
    ) -> None:
        self.root = root
        self.reserve_bytes = reserve_bytes
        self.max_bytes = max_bytes
        self.files = files or Files()
        self.free_bytes = 0
        self.written_bytes = 0
        self.sync_late_s = 0.0  # by how much the last flush missed its time
        self.segments_closed = 0
        self.syncs = 0
        self.longest_job_s = 0.0
        self.untold_facts = 0
        self.full_until_s = 0.0  # monotonic; while it lies ahead nothing new begins here
        self.broken: OSError | None = None  # the last error that was not a full disk
        self.in_use: set[str] = set()  # paths of segments that are not closed
        self._tell = tell
        self._zone = zone
        self._sync_every_s = sync_every_s
        self._on_closed = on_closed
        self._jobs: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._submitted_bytes = 0  # event loop only
        self._done_bytes = 0  # thread only
        self._busy_since_s: float | None = None
        self._to_sync: list[tuple[float, int, Segment]] = []  # flusher only, as the next two
        self._order = itertools.count()
        self._untold: deque[tuple[SegmentClosed, Path]] = deque()
        self._to_flush: queue.SimpleQueue[tuple[Segment, bool] | None] = queue.SimpleQueue()
        self._flushing_since_s: float | None = None
        self._writer = threading.Thread(target=self._write_for_ever, name=f"write {root.name}"[:15], daemon=True)
        self._flusher = threading.Thread(target=self._flush_for_ever, name=f"flush {root.name}"[:15], daemon=True)
        self._prepared = threading.Event()

    # ---- event loop

    def start(self) -> None:
        """Begin; the folder is made in the thread, since that may hang too."""
        self._writer.start()
        self._flusher.start()

    def submit(self, jobs: list[Job]) -> None:
        """Hand jobs over; never waits."""
        self._submitted_bytes += sum(len(unit.data) for job in jobs for unit in job.units)
        self._jobs.put(jobs)

    def look_again(self) -> None:
        """Let the writer look how much is free, unless it is busy."""
        if self._jobs.empty() and self._busy_since_s is None:
            self._jobs.put([])

    def stop(self) -> None:
        """End behind what was submitted; `join` waits."""
        self._jobs.put(None)

    def join(self, timeout_s: float) -> bool:
        """Whether the threads have ended in time; hung ones are left behind, as daemons."""
        until_s = time.monotonic() + timeout_s
        self._writer.join(timeout_s)
        self._flusher.join(max(0.0, until_s - time.monotonic()))
        return not self._writer.is_alive() and not self._flusher.is_alive()

    @property
    def queued_bytes(self) -> int:
        """Footage that waits for the disk."""
        return self._submitted_bytes - self._done_bytes

    def stalled_s(self) -> float:
        """For how long the write in progress has been taking; 0 when idle."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def flushing_s(self) -> float:
        """For how long the flush in progress has been taking; 0 when idle."""
        since_s = self._flushing_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def has_room(self) -> bool:
        """Whether new segments may begin here."""
        return (
            self._prepared.is_set()
            and time.monotonic() >= self.full_until_s
            and self.free_bytes > self.reserve_bytes // 2
        )

    # ---- writer

    def _write_for_ever(self) -> None:
        self._busy_since_s = time.monotonic()
        self._prepare()
        while True:
            self._busy_since_s = None
            try:
                jobs = self._jobs.get(timeout=None if self._prepared.is_set() else _IDLE_S)
            except queue.Empty:
                jobs = []
            self._busy_since_s = time.monotonic()
            if jobs is None:
                self._busy_since_s = None
                self._to_flush.put(None)
                return
            for job in jobs:
                self._do(job)
                now_s = time.monotonic()
                self.longest_job_s = max(self.longest_job_s, now_s - self._busy_since_s)
                self._busy_since_s = now_s
            if not jobs:
                self._prepare()

    def _prepare(self) -> None:
        try:
            self.files.make_folder(self.root / OPEN)
            self.free_bytes = self.files.free_bytes(self.root)
            self._prepared.set()
        except OSError as error:
            self._trouble(error)

    def _do(self, job: Job) -> None:
        segment = job.segment
        try:
            if job.units and segment.failed is None:
                if not segment.opened:
                    segment.open(self.root, self.files, self._zone)
                    self.in_use.add(segment.path)
                    self._to_flush.put((segment, False))
                    self.free_bytes = self.files.free_bytes(self.root)
                self.written_bytes += segment.append(self.files, job.units, job.end_dts)
            elif job.units:
                self._lost(segment, job.units)
        except OSError as error:
            if job.units:
                self._lost(segment, job.units)
            self._trouble(error)
            segment.failed = error
        except Exception as error:
            # A unit that cannot be written as it is ends its own segment, never the disk's thread.
            log.exception("footage cannot be recorded", extra={"camera": segment.camera_id, "stream": segment.stream})
            self._lost(segment, job.units)
            segment.failed = OSError(errno.EINVAL, str(error))
        finally:
            self._done_bytes += sum(len(unit.data) for unit in job.units)
        if job.close and segment.opened:
            self._to_flush.put((segment, True))

    @staticmethod
    def _lost(segment: Segment, units: list[AccessUnit]) -> None:
        segment.lost_units += len(units)
        if segment.lost_from_s is None:
            segment.lost_from_s = units[0].wall_s

    def _trouble(self, error: OSError) -> None:
        """Said once a spell; the recorder raises the alarm."""
        now_s = time.monotonic()
        if now_s > self.full_until_s + RETRY_FULL_S:
            log.error("recording folder in trouble", extra={"folder": str(self.root), "why": str(error)})
        self.full_until_s = now_s + RETRY_FULL_S
        self.broken = None if error.errno in _FULL else error

    # ---- flusher

    def _flush_for_ever(self) -> None:
        while True:
            try:
                given = self._to_flush.get(timeout=self._wait_s())
                if given is None:
                    self._tell_untold()
                    return
                segment, close = given
                if close:
                    self._close(segment)
                else:
                    # A phase of its own, so that the flushes of many segments are spread over the interval.
                    self._later(segment, (hash(segment.key) & 0xFFFF) / 0x10000)
            except queue.Empty:
                pass
            self._sync_due()
            self._tell_untold()

    def _wait_s(self) -> float:
        return min(_IDLE_S, max(0.0, self._to_sync[0][0] - time.monotonic())) if self._to_sync else _IDLE_S

    def _later(self, segment: Segment, share: float) -> None:
        due_s = time.monotonic() + share * self._sync_every_s
        heapq.heappush(self._to_sync, (due_s, next(self._order), segment))

    def _sync_due(self) -> None:
        """One file at a time, so that closing waits for no pass."""
        now_s = time.monotonic()
        while self._to_sync and self._to_sync[0][0] <= now_s:
            due_s, _, segment = heapq.heappop(self._to_sync)
            if segment.closed or segment.failed is not None:
                continue
            self.sync_late_s = now_s - due_s
            try:
                with self._flushing():
                    segment.sync(self.files)
                self.syncs += 1
            except OSError as error:
                segment.failed = error
                self._trouble(error)
                continue
            self._later(segment, 1.0)
            return

    @contextlib.contextmanager
    def _flushing(self) -> Iterator[None]:
        self._flushing_since_s = time.monotonic()
        try:
            yield
        finally:
            self._flushing_since_s = None

    def _close(self, segment: Segment) -> None:
        if segment.closed:
            return
        try:
            with self._flushing():
                fact = segment.close(self.files)
        except OSError as error:
            # Not synced: the index is not told, the marker stays, and the next start looks at the file.
            segment.failed = segment.failed or error
            segment.closed = True
            self._trouble(error)
            return
        self.in_use.discard(segment.path)
        if fact is not None:
            self._untold.append((fact, segment.marker))

    def _tell_untold(self) -> None:
        while self._untold:
            fact, marker = self._untold[0]
            try:
                self._tell(fact)
            except Exception as error:  # whatever the spool's trouble is: the fact waits, the flusher lives
                self.untold_facts = len(self._untold)
                log.error("a segment waits for the index", extra={"segment": fact.path, "why": str(error)})
                return
            self._untold.popleft()
            self.segments_closed += 1
            if self._on_closed is not None:
                self._on_closed(fact)
            with contextlib.suppress(OSError):  # a marker too many costs the next start a look
                self.files.remove(marker)
        self.untold_facts = 0
