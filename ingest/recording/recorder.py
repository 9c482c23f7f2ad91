"""The recorder: all streams of a worker that are to be kept, and the folders that they are kept in.

    recorder = Recorder(streams, settings, emit_fact=..., clock=..., home=..., zone=...)
    await recorder.start()      # recording begins at once; what a crash left open is closed behind it
    recorder.stats()
    await recorder.stop()       # segments closed and told, unless a disk hangs

One task looks at a few streams every tick, so that each is collected every `FRAGMENT_S`: no wake-up a frame. Footage
that waits for disks is bounded by `BUDGET_S` of what comes in. `emit_fact` is called from threads, blocks until the
fact is durable, and raises `GridwatchError` when it cannot be.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from ingest.access_unit import StreamName
from ingest.clock import Clock
from ingest.errors import GridwatchError
from ingest.fanout import Fanout
from ingest.recording.aside import Aside
from ingest.recording.disk import Disk, Job
from ingest.recording.facts import Fact, Gap, RecordingAlarm, SegmentClosed
from ingest.recording.files import Files
from ingest.recording.recover import close_left_open
from ingest.recording.retention import Keeper, Keepers, Policy
from ingest.recording.stream import StreamRecorder
from ingest.recording_settings import GB, Recording, RecordingFolder, Retention

log = logging.getLogger(__name__)

FRAGMENT_S = 0.75  # a kill costs this, the newest frame's wait and the write: together under a second
_TURNS = 5
BUDGET_S = 5.0
BUDGET_FLOOR_BYTES = 16 << 20
STALLED_S = 5.0
FLUSH_STALLED_S = 20.0
FRESH_S = 5.0
_STOP_S = 3.0
_RETELL_S = 1.0
_RATE_EVERY_S = 5.0


@dataclass(frozen=True)
class RecordedStream:
    """One stream that is to be kept."""

    camera_id: str
    stream: StreamName
    fanout: Fanout


class Recorder:
    """See the module. `retention_of(camera, stream)` is what streams.yaml says of any camera, called from threads.

    `files(root)` is the operating system's unless a test puts another layer underneath.
    """

    def __init__(
        self,
        streams: Iterable[RecordedStream],
        settings: Recording,
        *,
        emit_fact: Callable[[Fact], None],
        clock: Clock,
        home: Path,
        zone: ZoneInfo,
        retention_of: Callable[[str, str], Retention] = lambda _camera, _stream: Retention(),
        files: Callable[[Path], Files] = lambda _: Files(),
    ) -> None:
        self._settings = settings
        self._retention_of = retention_of
        self._emit_fact = emit_fact
        self._clock = clock
        self._zone = zone
        self._keepers = Keepers(None if settings.max_gb is None else int(settings.max_gb * GB))
        self._disks: list[Disk] = []
        for folder in settings.folders or [RecordingFolder(path="recordings")]:
            self._add_disk(folder, home, files)
        self._streams: dict[tuple[str, str], StreamRecorder] = {}
        self._turns: list[list[StreamRecorder]] = [[] for _ in range(_TURNS)]
        for stream in streams:
            self.add(stream)
        self._task: asyncio.Task[None] | None = None
        self._side = Aside("recording facts")
        self._stopping = threading.Event()
        self._marks = Aside("recording marks")
        self._alarms: dict[tuple[str, str], float] = {}
        self._budget_bytes = BUDGET_FLOOR_BYTES
        self._rated_s = 0.0
        self._rated_bytes = 0
        self.recovered = 0

    def _add_disk(self, folder: RecordingFolder, home: Path, files: Callable[[Path], Files]) -> None:
        root = home / folder.path
        layer = files(root)
        keeper = Keeper(
            root,
            files=layer,
            tell=self._emit_fact,
            clock=self._clock,
            zone=self._zone,
            policy=self._policy,
            siblings=self._keepers,
            max_bytes=None if folder.max_gb is None else int(folder.max_gb * GB),
            reserve_bytes=int(folder.reserve_gb * GB),
        )
        disk = Disk(
            root,
            tell=self._emit_fact,
            zone=self._zone,
            sync_every_s=self._settings.sync_every_s,
            reserve_bytes=keeper.reserve_bytes,
            max_bytes=keeper.max_bytes,
            files=layer,
            on_closed=keeper.closed,
        )
        keeper.in_use = disk.in_use
        self._keepers.add(keeper)
        self._disks.append(disk)

    # ---- life

    def add(self, stream: RecordedStream) -> None:
        """Record one more stream from now on; one that is recorded already goes on."""
        key = stream.camera_id, stream.stream
        if key in self._streams:
            return
        recorder = StreamRecorder(
            stream.camera_id,
            stream.stream,
            stream.fanout,
            segment_s=self._settings.segment_s,
            choose=self._choose,
            tell_gap=self._tell_aside,
        )
        self._streams[key] = recorder
        min(self._turns, key=len).append(recorder)

    def remove(self, camera_id: str, stream: StreamName) -> None:
        """Record a stream no longer; its segment is closed behind what is queued. Others are no error."""
        recorder = self._streams.pop((camera_id, stream), None)
        if recorder is None:
            return
        for turn in self._turns:
            if recorder in turn:
                turn.remove(recorder)
        jobs: dict[Disk, list[Job]] = {}
        recorder.finish(self._clock.monotonic_s(), self._may_queue, jobs)
        self._hand_over(jobs)

    async def start(self) -> None:
        """Begin to record; returns at once, even if a disk hangs."""
        for disk in self._disks:
            disk.start()
            threading.Thread(target=self._recover, args=(disk,), name="recording recovery", daemon=True).start()
        self._keepers.start()
        self._task = asyncio.create_task(self._run(), name="recording")

    async def stop(self) -> None:
        """Close every segment and tell it. A hung disk is left behind; the next start closes its files."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        jobs: dict[Disk, list[Job]] = {}
        for recorder in self._streams.values():
            recorder.finish(self._clock.monotonic_s(), self._may_queue, jobs)
        self._hand_over(jobs)
        self._stopping.set()
        for disk in self._disks:
            disk.stop()
        joins = [asyncio.to_thread(disk.join, _STOP_S) for disk in self._disks]
        *ended, _ = await asyncio.gather(*joins, asyncio.to_thread(self._keepers.stop, _STOP_S))
        if all(ended):
            await asyncio.to_thread(self._side.stop, 1.0)
            await asyncio.to_thread(self._marks.stop, 1.0)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        turn = 0
        due_s = loop.time()
        while True:
            due_s = max(due_s + FRAGMENT_S / _TURNS, loop.time())
            await asyncio.sleep(due_s - loop.time())
            self._collect(self._turns[turn])
            turn = (turn + 1) % _TURNS
            if turn == 0:
                self._watch_disks()

    def _collect(self, recorders: list[StreamRecorder]) -> None:
        jobs: dict[Disk, list[Job]] = {}
        now_s = self._clock.monotonic_s()
        for recorder in recorders:
            try:
                recorder.collect(now_s, self._may_queue, jobs)
            except Exception:
                # A stream that cannot be recorded must not end the others.
                log.exception("recording a stream failed", extra={"camera": recorder.camera_id})
                recorder.segment = None
        self._hand_over(jobs)

    @staticmethod
    def _hand_over(jobs: dict[Disk, list[Job]]) -> None:
        for disk, theirs in jobs.items():
            disk.submit(theirs)

    def _recover(self, disk: Disk) -> None:
        """In a thread of its own: footage of now does not wait for footage of before."""

        def tell(fact: SegmentClosed) -> None:
            self._emit_fact(fact)
            self._keepers.closed(disk.root, fact)
            self.recovered += 1

        try:
            close_left_open(disk.root, self._zone, tell, files=disk.files, but=disk.in_use)
        except (OSError, GridwatchError) as error:
            log.error("not all open segments could be closed", extra={"folder": str(disk.root), "why": str(error)})

    # ---- disks

    def _may_queue(self, disk: Disk) -> bool:
        return disk.queued_bytes < self._budget_bytes and disk.stalled_s() < STALLED_S

    def _is_slow(self, disk: Disk) -> bool:
        return disk.flushing_s() >= FLUSH_STALLED_S or not self._may_queue(disk)

    def _choose(self, recorder: StreamRecorder) -> Disk | None:
        """By free space for each stream that a disk serves; a stream stays where it is unless that is clearly worse."""
        usable = [disk for disk in self._disks if disk.has_room() and disk.stalled_s() < STALLED_S / 2]
        if not usable:
            return None
        served = dict.fromkeys(self._disks, 1)
        for other in self._streams.values():
            if other is not recorder and other.disk is not None and other.segment is not None:
                served[other.disk] += 1
        share = {disk: max(1, disk.free_bytes - disk.reserve_bytes) / served[disk] for disk in usable}
        best = max(usable, key=lambda disk: share[disk])
        if recorder.disk in share and share[recorder.disk] * 1.25 >= share[best]:
            return recorder.disk
        return best

    def _watch_disks(self) -> None:
        """Budget by what comes in, and alarms that begin and end."""
        now_s = self._clock.monotonic_s()
        handed = sum(disk._submitted_bytes for disk in self._disks)
        if now_s - self._rated_s >= _RATE_EVERY_S:
            if self._rated_s:
                rate = (handed - self._rated_bytes) / (now_s - self._rated_s)
                wanted = int(rate * BUDGET_S) // max(1, sum(disk.has_room() for disk in self._disks))
                self._budget_bytes = max(BUDGET_FLOOR_BYTES, wanted, self._budget_bytes * 9 // 10)
            self._rated_s, self._rated_bytes = now_s, handed
        for disk in self._disks:
            full = disk.full_until_s > now_s or (disk._prepared.is_set() and not disk.has_room())
            self._alarm(disk, "disk_slow", self._is_slow(disk), now_s)
            self._alarm(disk, "disk_full", full and disk.broken is None, now_s)
            self._alarm(disk, "disk_error", full and disk.broken is not None, now_s, str(disk.broken or ""))
            if full:
                self._keepers.wake(disk.root)
                disk.look_again()

    def _alarm(self, disk: Disk, kind: Any, on: bool, now_s: float, detail: str = "") -> None:
        key = str(disk.root), kind
        if on == (key in self._alarms):
            if on:
                self._alarms[key] = now_s
            return
        if not on and now_s - self._alarms[key] < STALLED_S:
            return  # it may come back at once
        if on:
            self._alarms[key] = now_s
        else:
            del self._alarms[key]
        cameras = sorted({r.camera_id for r in self._streams.values() if r.disk is disk})
        self._tell_aside(
            RecordingAlarm(
                kind=kind,
                state="opened" if on else "closed",
                at=self._clock.now(),
                folder=key[0],
                cameras=tuple(cameras),
                detail=detail,
            )
        )

    def _policy(self, camera_id: str, stream: str) -> Policy:
        """Of any camera of the town, since one process deletes for all; footage of removed cameras by the general."""
        return Policy.of(self._retention_of(camera_id, stream).over(self._settings.retention))

    def _tell_aside(self, fact: Gap | RecordingAlarm) -> None:
        """Facts of the event loop: durable in a thread of their own, so that no hung disk keeps them back."""

        def tell() -> None:
            while True:
                try:
                    return self._emit_fact(fact)
                except Exception as error:  # the spool is in trouble: facts wait for it, in order
                    log.error("a recording fact waits", extra={"fact": fact.fact, "why": str(error)})
                    if self._stopping.wait(_RETELL_S):
                        return None

        self._side.submit(tell)

    # ---- facts

    def fresh(self, camera_id: str, stream: StreamName = "main") -> bool | None:
        """Whether the newest footage went to a disk that works, in the last seconds; None: not recorded by setting.

        A camera of few frames a second is fresh for three of its frame intervals.
        """
        recorder = self._streams.get((camera_id, stream))
        if recorder is None:
            return None
        disk = recorder.disk
        if recorder.segment is None or recorder.segment.failed is not None or disk is None:
            return False
        limit_s = max(FRESH_S, 3 * recorder._usual / 90_000 + FRAGMENT_S)
        return self._clock.monotonic_s() - recorder.last_handed_s <= limit_s and disk.stalled_s() < STALLED_S

    def stats(self) -> dict[str, Any]:
        """Counters and states for the worker's report."""
        recorders = self._streams.values()
        return {
            "streams": len(recorders),
            "frames": sum(r.frames for r in recorders),
            "segments": sum(r.segments for r in recorders),
            "gaps": sum(r.gaps for r in recorders),
            "dropped_units": sum(r.dropped_units for r in recorders),
            "budget_bytes": self._budget_bytes,
            "recovered": self.recovered,
            "not_fresh": sorted(f"{c}/{s}" for c, s in self._streams if not self.fresh(c, s)),  # type: ignore[arg-type]
            "folders": [
                {
                    "folder": str(disk.root),
                    "free_bytes": disk.free_bytes,
                    "queued_bytes": disk.queued_bytes,
                    "written_bytes": disk.written_bytes,
                    "segments_closed": disk.segments_closed,
                    "untold_facts": disk.untold_facts,
                    "syncs": disk.syncs,
                    "sync_late_s": round(disk.sync_late_s, 3),
                    "stalled_s": round(disk.stalled_s(), 3),
                    "longest_job_s": round(disk.longest_job_s, 3),
                    **self._keepers.stats(disk.root),
                }
                for disk in self._disks
            ],
        }

    def keep_soon(self, camera_id: str, start_s: float, end_s: float, kept_as: Literal["event", "evidence"]) -> None:
        """Keep a camera's footage of a time (UTC seconds) as a class; returns at once, may be said twice."""

        def keep() -> None:
            try:
                self._keepers.keep(camera_id, start_s, end_s, kept_as)
            except OSError as error:
                log.error("footage could not be marked", extra={"camera": camera_id, "why": str(error)})

        self._marks.submit(keep)
