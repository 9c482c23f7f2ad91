"""The watcher: all that a worker sees. Keyframes in, events out, with evidence on disk before an event is told.

Life cycle: `start` closes what a dead predecessor left open and starts the analysis threads; `join` follows a camera's
stream (or `on_keyframe` is called for it; both on the event loop, neither waits); `camera_lost` ends what is open on a
camera; cameras are added, replaced and removed while it runs; `stop` ends everything, in bounded time. A thread takes a
look from the schedule, decodes, lets the camera's watch decide, and tells the events: first into the file of open
events, then to `emit`. When `emit` refuses (disk full) the events wait in memory in their order and are told as soon as
it takes them. An unexpected error costs one look, a traceback in the log and a count.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import cv2

from analytics.camera_watch import CameraWatch
from analytics.decode import DecodeError, KeyframeDecoder, Picture
from analytics.detector import Detector
from analytics.evidence import EvidenceStore
from analytics.last_pictures import LastPictures
from analytics.open_events import OpenEvents
from analytics.rules.rule_state import ClosedBecause
from analytics.schedule import LookSchedule
from ingest.access_unit import AccessUnit
from ingest.camera import Camera
from ingest.clock import Clock, SystemClock
from ingest.event import Event
from ingest.fanout import Fanout, Reader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """The watcher's settings; seconds unless said otherwise."""

    active_every_s: float = 2.0  # a look at least this often where something goes on
    quiet_every_s: float = 4.0  # and this often elsewhere
    budget_cores: float = 1.0  # CPU that all looks together may take
    threads: int = 2
    picture_px: int = 640  # longest side of the page's picture
    changed_picture_every_s: float = 2.0  # the page's picture, where the scene changes
    quiet_picture_every_s: float = 10.0  # and where it does not
    lost_after_s: float = 30.0  # no keyframe for this long (or four GOPs) ends what is open on a camera
    stop_within_s: float = 4.0  # events not closed by then are closed by the next start


@dataclass(slots=True)
class _Watched:
    watch: CameraWatch
    lock: threading.Lock
    picture_s: float = float("-inf")  # monotonic, of the page's picture
    is_lost: bool = False  # told by the event loop, handled by an analysis thread
    is_removed: bool = False  # nothing may be opened any more; under the lock


class Watcher:
    """Looks at its cameras. `emit` is called by analysis threads, one call at a time; durable when it returns."""

    def __init__(
        self,
        cameras: Iterable[Camera],
        *,
        emit: Callable[[Event], object],
        detector: Detector,
        evidence: EvidenceStore,
        pictures: LastPictures,
        open_events: Path,
        epoch: int,
        timezone: ZoneInfo,
        clock: Clock | None = None,
        options: WatchOptions | None = None,
    ) -> None:
        """`epoch` is larger than that of any earlier start of this worker; `open_events` its file of open events."""
        self._clock = clock or SystemClock()
        self._options = options or WatchOptions()
        self._emit = emit
        self._detector = detector
        self._evidence = evidence
        self._timezone = timezone
        self._pictures = pictures
        self._open_events = OpenEvents(open_events)
        self._epoch = epoch
        # Replaced, never changed: threads walk through it without a lock.
        self._watched = {camera.id: self._new(camera) for camera in cameras}
        self._schedule = LookSchedule(
            self._clock,
            self._options.active_every_s,
            self._options.quiet_every_s,
            budget_cores=self._options.budget_cores,
        )
        self._telling = threading.Lock()
        self._untold: deque[Event] = deque()
        self._handed: deque[Event] = deque()  # by `tell`; taken by the next housekeeping
        self._errors: Counter[tuple[str, str]] = Counter()  # (camera, code)
        self._housekeeping = threading.Lock()
        self._kept_s = self._clock.monotonic_s()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._readers: dict[str, Reader] = {}
        self._followers: set[asyncio.Task[None]] = set()

    # ---- the event loop's side

    async def start(self) -> None:
        """Close what was left open, then begin to look."""
        cv2.setNumThreads(1)  # its pool would fight the analysis threads for the same cores
        await asyncio.to_thread(self._close_left_open)
        for number in range(self._options.threads):
            thread = threading.Thread(target=self._run, name=f"look-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    async def stop(self) -> None:
        """Finish the looks at hand, close what is open as `stopped`. Idempotent.

        After `stop_within_s` the rest stays in the file of open events, whence the next start closes it: a slow disk
        or a machine with too much to do must not make the end of the program a matter of luck.
        """
        deadline_s = time.monotonic() + self._options.stop_within_s
        self._stopping.set()
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        await asyncio.gather(*self._followers)
        threads, self._threads = self._threads, []
        if threads:
            await asyncio.to_thread(self._end, threads, deadline_s)

    def _end(self, threads: list[threading.Thread], deadline_s: float) -> None:
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            log.warning("a look does not end; what is open is closed by the next start")
            return
        self._close_all(deadline_s)

    def add_camera(self, camera: Camera) -> None:
        """Begin to watch one more; `join` makes it see. A camera that is watched already is left as it is."""
        if camera.id not in self._watched:
            self._watched = {**self._watched, camera.id: self._new(camera)}

    async def remove_camera(self, camera_id: str) -> None:
        """Watch it no longer; what is open on it is closed as `reconfigured`. Waits for the look at hand."""
        if (watched := self._watched.get(camera_id)) is None:
            return
        if (reader := self._readers.pop(camera_id, None)) is not None:
            reader.close()
        self._watched = {key: value for key, value in self._watched.items() if key != camera_id}
        self._schedule.remove(camera_id)
        await asyncio.to_thread(self._close_removed, watched)

    async def replace_camera(self, camera: Camera, timezone: ZoneInfo | None = None) -> None:
        """Go on with a changed camera: rules that stay as they were notice nothing. Waits for the look at hand."""
        if (watched := self._watched.get(camera.id)) is not None:
            await asyncio.to_thread(self._reconfigure, watched, camera, timezone or self._timezone)

    def set_timezone(self, timezone: ZoneInfo) -> None:
        """The town's time zone for cameras that are added or replaced from now on."""
        self._timezone = timezone

    def _new(self, camera: Camera) -> _Watched:
        watch = CameraWatch(camera, self._detector, self._evidence, self._timezone, self._epoch)
        return _Watched(watch, threading.Lock())

    def _close_removed(self, watched: _Watched) -> None:
        with watched.lock:
            watched.is_removed = True
            self._tell(watched.watch.close("reconfigured", self._clock.now()))

    def _reconfigure(self, watched: _Watched, camera: Camera, timezone: ZoneInfo) -> None:
        with watched.lock:
            self._tell(watched.watch.reconfigure(camera, timezone, self._clock.now()))

    def join(self, camera_id: str, fanout: Fanout) -> None:
        """Follow the stream that is to be analysed (the sub stream where there is one) instead of any earlier one."""
        if (earlier := self._readers.pop(camera_id, None)) is not None:
            earlier.close()
        reader = self._readers[camera_id] = fanout.join("analytics", capacity_units=2, keyframes_only=True)
        follower = asyncio.get_running_loop().create_task(self._follow(camera_id, reader), name=f"look {camera_id}")
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)

    async def _follow(self, camera_id: str, reader: Reader) -> None:
        async for unit in reader:
            self.on_keyframe(camera_id, unit)

    def on_keyframe(self, camera_id: str, unit: AccessUnit) -> None:
        """Offer a unit of the analysed stream; anything but a fresh keyframe of a known camera is ignored."""
        is_fresh = self._clock.monotonic_s() - unit.received_s < self._options.lost_after_s
        if unit.is_keyframe and is_fresh and camera_id in self._watched:
            self._schedule.offer(camera_id, unit)

    def camera_lost(self, camera_id: str) -> None:
        """The camera's stream is gone: events open on it are closed as `camera_lost`."""
        if (watched := self._watched.get(camera_id)) is not None:
            watched.is_lost = True
            self._schedule.forget(camera_id)

    def tell(self, events: Iterable[Event]) -> None:
        """Tell events that others have made, within about a second, with the same care as the watcher's own."""
        self._handed.extend(events)

    def last_picture(self, camera_id: str) -> tuple[bytes, datetime] | None:
        """(JPEG, when it was taken), or None while there is none."""
        return self._pictures.get(camera_id)

    def stats(self) -> dict[str, dict[str, Any]]:
        """Counters a camera: keyframes, looks, looks_skipped, analysis_lag_s, detector_runs, errors, …"""
        looks = self._schedule.counters()
        found: dict[str, dict[str, Any]] = {}
        for camera_id, watched in self._watched.items():
            errors = {code: count for (camera, code), count in list(self._errors.items()) if camera == camera_id}
            turn = asdict(looks[camera_id]) if camera_id in looks else {}
            found[camera_id] = {**turn, **asdict(watched.watch.counters), "errors": errors}
        return found

    @property
    def untold_events(self) -> int:
        """Statements that `emit` has refused and that wait in memory."""
        return len(self._untold)

    # ---- the analysis threads' side

    def _run(self) -> None:
        decoder = KeyframeDecoder()
        while not self._stopping.is_set():
            self._keep_house()
            if (look := self._schedule.take()) is None:
                continue
            camera_id, unit = look
            if (watched := self._watched.get(camera_id)) is None:
                continue
            began_s = time.thread_time()
            try:
                self._look(watched, unit, decoder)
            except DecodeError as error:
                self._count_error(camera_id, error.code, str(error))
            except Exception:
                self._errors[camera_id, "look.failed"] += 1
                log.exception("a look failed", extra={"camera": camera_id})
            finally:
                self._schedule.done(camera_id, unit, watched.watch.is_busy, time.thread_time() - began_s)

    def _look(self, watched: _Watched, unit: AccessUnit, decoder: KeyframeDecoder) -> None:
        picture = decoder.decode(unit)
        with watched.lock:
            if watched.is_removed:
                return
            self._tell(watched.watch.look(unit, picture))
        self._keep_picture(watched, unit, picture)

    def _keep_picture(self, watched: _Watched, unit: AccessUnit, picture: Picture) -> None:
        options = self._options
        every_s = options.changed_picture_every_s if watched.watch.changed else options.quiet_picture_every_s
        now = self._clock.monotonic_s()
        if now - watched.picture_s < every_s * 0.9:  # looks are not exactly on time
            return
        watched.picture_s = now
        jpeg, _, _ = picture.jpeg(options.picture_px, quality=75)
        try:
            self._pictures.put(watched.watch.camera.id, jpeg, datetime.fromtimestamp(unit.wall_s, UTC))
        except OSError as error:
            self._count_error(watched.watch.camera.id, "picture.not_written", str(error))

    def _keep_house(self) -> None:
        """Once a second, by whichever thread comes first: hours that end, cameras that are lost, events that wait."""
        now = self._clock.monotonic_s()
        if now - self._kept_s < 1.0 and not any(watched.is_lost for watched in self._watched.values()):
            return
        if not self._housekeeping.acquire(blocking=False):
            return
        try:
            self._kept_s = now
            self._tell(self._take_handed())
            for camera_id, watched in self._watched.items():
                newest_s, gop_s = self._schedule.last_keyframe_s(camera_id)
                is_silent = newest_s is not None and now - newest_s > max(self._options.lost_after_s, 4 * gop_s)
                at = self._clock.now()
                with watched.lock:
                    if watched.is_lost or is_silent:
                        watched.is_lost = False
                        self._tell(watched.watch.close("camera_lost", at))
                    else:
                        self._tell(watched.watch.tick(at))
        finally:
            self._housekeeping.release()

    def _count_error(self, camera_id: str, code: str, why: str) -> None:
        self._errors[camera_id, code] += 1
        if self._errors[camera_id, code] in (1, 10, 100) or self._errors[camera_id, code] % 1000 == 0:
            facts = {"camera": camera_id, "code": code, "times": self._errors[camera_id, code], "why": why}
            log.warning("a look gave nothing", extra=facts)

    # ---- telling

    def _tell(self, events: list[Event]) -> None:
        """Append to what is to be told and tell it in order. The file of open events is always at least as new."""
        if not events and not self._untold:
            return
        with self._telling:
            self._untold.extend(events)
            while self._untold:
                event = self._untold[0].model_copy(update={"emitted_at": self._clock.now()})
                try:
                    if event.state != "closed":
                        self._remember(event)
                    self._emit(event)
                except Exception as error:  # whatever the reason: an event is never dropped
                    log.error("events wait in memory", extra={"waiting": len(self._untold), "why": repr(error)})
                    return
                self._untold.popleft()
                if event.state == "closed":
                    self._forget(event)

    def _take_handed(self) -> list[Event]:
        return [self._handed.popleft() for _ in range(len(self._handed))]

    def _remember(self, event: Event) -> None:
        try:
            self._open_events.put(event)
        except OSError as error:  # telling now matters more than tidying after a crash that may not come
            log.error("open events not written", extra={"event": str(event.id), "why": str(error)})

    def _forget(self, event: Event) -> None:
        try:
            self._open_events.remove(event.id)
        except OSError as error:  # it will be closed once more by the next start, which changes nothing
            log.error("open events not written", extra={"event": str(event.id), "why": str(error)})

    def _close_left_open(self) -> None:
        left = self._open_events.left_open(self._epoch, self._clock.now())
        if left:
            log.info("closing events that an earlier run left open", extra={"events": len(left)})
            self._tell(left)

    def _close_all(self, deadline_s: float) -> None:
        because: ClosedBecause = "stopped"
        for watched in self._watched.values():
            if time.monotonic() > deadline_s:
                log.warning("not all open events are closed in time; the next start closes them")
                return
            with watched.lock:
                self._tell(watched.watch.close(because, self._clock.now()))
        self._tell(self._take_handed())
