"""An ingest worker: its cameras' links, the packets' tap, and the watcher that turns keyframes into events.

Argument: the worker's number. Events go into its spool, durable before anything else happens to them; its report file
is its heartbeat. It works by the accepted town (`command.accepted_town`) and follows its generations: only what has
changed of a camera is touched. Killed at any instruction, the next start closes what was left open and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from typing import Any

from analytics.detector import OnnxDetector
from analytics.evidence import EvidenceStore
from analytics.last_pictures import LastPictures
from analytics.model import load_model
from analytics.watch import Watcher, WatchOptions
from command.accepted_town import TownFile
from command.epoch import next_epoch
from command.processes.child import beat, run_child
from command.settings import Settings
from command.worker_report import report_body
from ingest.access_unit import StreamName
from ingest.bell import Bell
from ingest.camera import Camera
from ingest.clock import SystemClock
from ingest.connect_gate import ConnectGate
from ingest.event import Event
from ingest.fanout import Fanout
from ingest.health import CameraState, StreamHealth
from ingest.health_watch import HealthLimits, HealthWatch
from ingest.link import CameraLink
from ingest.machine import Limit, Need, UdpDrops, limits
from ingest.recording import SPOOL_KIND, Fact, RecordedStream, Recorder, RecordingAlarm, Retention
from ingest.recording.alarm_events import AlarmEvents
from ingest.spool import Spool
from ingest.state_log import StateLog
from ingest.tap import TapServer

log = logging.getLogger("command.processes.worker")

SOONEST_REPORT_S = 0.2  # after the one before
LATEST_REPORT_S = 1.0
LIMITS_EVERY_S = 10.0
FOLLOW_EVERY_S = 0.25  # one stat(2) in memory
TEARDOWN_WITHIN_S = 1.5  # for all sessions together
EVENT_BEFORE_S = 10.0  # footage around an event that is kept with it
EVENT_AFTER_S = 30.0
NOT_LOST = (CameraState.LIVE, CameraState.CONNECTING, CameraState.WAITING, CameraState.STOPPED)
STREAMS: tuple[StreamName, ...] = ("main", "sub")


class Worker:
    """The cameras of one worker. `run` returns when `stop` is set, with every session torn down."""

    def __init__(self, name: str, settings: Settings, published: TownFile) -> None:
        self._name = name
        self._published = published
        self._town = town = published.read()
        self._cameras = {camera.id: camera for camera in town.cameras_of(name)}
        self._settings = settings
        self._clock = SystemClock()
        self._spool = Spool(settings.spools / f"{name}.spool", bell=Bell(settings.run / "store.bell"))
        self._epoch = next_epoch(settings.spools / f"{name}.epoch")
        self._watcher = Watcher(
            self._cameras.values(),
            emit=self._emit,
            detector=OnnxDetector(load_model()),
            evidence=EvidenceStore(settings.evidence),
            pictures=LastPictures(settings.pictures),
            open_events=settings.spools / f"{name}.open.json",
            epoch=self._epoch,
            timezone=town.streams.zone_info,
            clock=self._clock,
            options=WatchOptions(quiet_every_s=settings.look_every_s),
        )
        self._changed = asyncio.Event()
        self._state_log = StateLog(self._clock)
        workers = len(set(town.workers.values()))
        self._gate = ConnectGate(max(4, 16 // workers), max(2, 8 // workers)) if workers else ConnectGate()
        self._links: dict[tuple[str, str], CameraLink] = {}
        self._recorder = Recorder(
            (),
            town.streams.recording,
            emit_fact=self._emit_recorded,
            clock=self._clock,
            home=settings.home,
            zone=town.streams.zone_info,
            retention_of=self._retention,
        )
        self._alarms = AlarmEvents(settings.spools / f"{name}.alarms.json", self._epoch, self._emit, self._clock.now)
        self._health = HealthWatch(
            self._clock, self._epoch, HealthLimits(loss_after_s=settings.loss_after_s), self._recorder.fresh
        )
        self._udp_drops = UdpDrops()
        self._limits: list[Limit] = []
        self._limits_s = float("-inf")

    def _need(self) -> Need:
        may_be_udp = any(camera.transport in ("auto", "udp") for camera in self._cameras.values())
        return Need(len(self._links), udp=may_be_udp)

    # ---- cameras

    def _open(self, camera: Camera, stream: StreamName) -> None:
        """Pull one stream of a camera, if it has it, and let the watcher see it, if that is the one."""
        if (url := camera.url(stream)) is None:
            return
        link = self._links[camera.id, stream] = CameraLink(
            camera.id,
            stream,
            url,
            clock=self._clock,
            gate=self._gate,
            transport=camera.transport,
            on_state=self._on_state,
        )
        if camera.records(stream):
            self._recorder.add(RecordedStream(camera.id, stream, link.fanout))
        link.start()
        if stream == analysed_stream(camera):
            self._watcher.join(camera.id, link.fanout)

    async def _shut(self, camera_id: str, stream: StreamName) -> None:
        if (link := self._links.pop((camera_id, stream), None)) is not None:
            self._recorder.remove(camera_id, stream)
            await link.stop()

    def _follow_record(self, camera: Camera) -> None:
        """Record what the changed camera's entry says, without touching its sessions."""
        for stream in STREAMS:
            link = self._links.get((camera.id, stream))
            if link is not None and camera.records(stream):
                self._recorder.add(RecordedStream(camera.id, stream, link.fanout))
            else:
                self._recorder.remove(camera.id, stream)

    def _retention(self, camera_id: str, stream: str) -> Retention:
        """What streams.yaml says of any camera of the town; called from the recorder's threads."""
        for camera in self._town.streams.cameras:
            if camera.id == camera_id:
                return camera.retention if stream == "main" else camera.retention_sub
        return Retention()

    def _add(self, camera: Camera) -> None:
        self._cameras[camera.id] = camera
        self._watcher.add_camera(camera)
        for stream in STREAMS:
            self._open(camera, stream)

    async def _remove(self, camera_id: str) -> None:
        await self._watcher.remove_camera(camera_id)
        for stream in STREAMS:
            await self._shut(camera_id, stream)
        del self._cameras[camera_id]
        self._watcher.tell(self._health.forget(camera_id))
        self._state_log.forget(camera_id)

    async def _replace(self, camera: Camera) -> None:
        """Only what has changed: a stream's session for its URL or transport, else nothing but the rules."""
        before = self._cameras[camera.id]
        self._cameras[camera.id] = camera
        await self._watcher.replace_camera(camera, self._town.streams.zone_info)
        for stream in STREAMS:
            if (before.url(stream), before.transport) != (camera.url(stream), camera.transport):
                await self._shut(camera.id, stream)
                self._open(camera, stream)
        self._follow_record(camera)
        link = self._links.get((camera.id, analysed_stream(camera)))
        if link is not None and analysed_stream(before) != analysed_stream(camera):
            self._watcher.join(camera.id, link.fanout)

    async def _follow_town(self) -> None:
        """Come to the published generation; all changed cameras at once, so that none waits for another's end."""
        town = self._published.read()
        if town.generation == self._town.generation:
            return
        before, self._town = self._town, town
        same_hours = before.streams.timezone == town.streams.timezone
        self._watcher.set_timezone(town.streams.zone_info)
        wanted = {camera.id: camera for camera in town.cameras_of(self._name)}
        removed = self._cameras.keys() - wanted.keys()
        changed = [
            camera
            for camera_id, camera in wanted.items()
            if camera_id in self._cameras and not (same_hours and camera == self._cameras[camera_id])
        ]
        added = [camera for camera_id, camera in wanted.items() if camera_id not in self._cameras]
        await asyncio.gather(*map(self._remove, removed), *map(self._replace, changed))
        for camera in added:
            self._add(camera)
        facts = {"added": len(added), "removed": len(removed), "changed": len(changed), "generation": town.generation}
        log.info("cameras follow the changed town", extra=facts)
        self._changed.set()

    def _emit(self, event: Event) -> None:
        self._spool.put("event", event.model_dump_json())
        if event.camera_id is not None and event.state != "updated" and event.code.startswith("5."):
            end = event.ended_at or event.started_at
            start_s, end_s = event.started_at.timestamp() - EVENT_BEFORE_S, end.timestamp() + EVENT_AFTER_S
            self._recorder.keep_soon(event.camera_id, start_s, end_s, "event")
        if event.state != "updated":
            facts = {"camera": event.camera_id, "code": event.code, "state": event.state, "id": str(event.id)}
            log.info("event", extra=facts)

    def _emit_recorded(self, fact: Fact) -> None:
        """What the recorder tells, from its threads: durable when this returns."""
        if isinstance(fact, RecordingAlarm):
            self._alarms.tell(fact)
        else:
            self._spool.put(SPOOL_KIND, fact.model_dump_json())

    def _on_state(self, health: StreamHealth) -> None:
        self._changed.set()
        self._state_log.note(health)
        camera = self._cameras.get(health.camera_id)
        is_analysed = camera is not None and health.stream == analysed_stream(camera)
        if is_analysed and health.state not in NOT_LOST:
            self._watcher.camera_lost(health.camera_id)

    def _fanout(self, camera_id: str, stream: str) -> Fanout | None:
        link = self._links.get((camera_id, stream))
        return link.fanout if link is not None else None

    def _analysis(self) -> dict[str, Any]:
        return {
            "cameras": self._watcher.stats(),
            "recording": self._recorder.stats(),
            "untold_events": self._watcher.untold_events,
            "cpu_s": time.process_time(),
            "threads": {thread.name: thread.native_id for thread in threading.enumerate()},  # for top -H and the bench
        }

    def _look_at_machine(self) -> list[Limit]:
        """The machine's limits, looked at every few seconds; what is new and bad is logged."""
        now_s = self._clock.monotonic_s()
        if now_s - self._limits_s >= LIMITS_EVERY_S:
            self._limits_s = now_s
            before = {limit.code for limit in self._limits}
            self._limits = limits(self._need(), self._udp_drops.sample())
            for limit in self._limits:
                if not limit.ok and limit.code not in before:
                    log.warning("%s", limit.sentence("en"), extra={"limit": limit.name, "code": limit.code})
        return self._limits

    def _report(self) -> None:
        healths, events = self._health.observe([link.health() for link in self._links.values()])
        self._watcher.tell(events)
        machine = self._look_at_machine()
        body = report_body(self._name, healths, self._analysis(), machine, self._town.generation)
        beat(self._settings.run / f"{self._name}.json", body)
        self._state_log.flush(len(self._links))

    async def _report_until(self, stop: asyncio.Event) -> None:
        """Once a second, and soon after a camera's state changes."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._changed.clear()
                self._report()
                await asyncio.wait({stopping}, timeout=SOONEST_REPORT_S)
                changing = asyncio.create_task(self._changed.wait())
                rest_s = LATEST_REPORT_S - SOONEST_REPORT_S
                await asyncio.wait({stopping, changing}, timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)
                changing.cancel()
        finally:
            stopping.cancel()

    async def _follow_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._follow_town()
            except (OSError, ValueError):  # unreadable: what holds goes on, and the supervisor sees it in the report
                log.exception("the changed town cannot be read")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), FOLLOW_EVERY_S)

    async def run(self, stop: asyncio.Event) -> None:
        """Pull, watch and tell until `stop`."""
        await self._recorder.start()
        await self._watcher.start()
        tap = TapServer(self._settings.tap_socket(self._name), self._fanout)
        await tap.start()
        for camera in list(self._cameras.values()):
            self._add(camera)
        jobs = [asyncio.create_task(job) for job in (self._report_until(stop), self._follow_until(stop))]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()  # an error here ends the process, and the supervisor starts it again
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, tap.stop(), return_exceptions=True)
            await self._end()

    async def _end(self) -> None:
        """Every session torn down and every event closed, as far as that is to be had in bounded time."""
        began_s = self._clock.monotonic_s()
        links = [asyncio.create_task(link.stop()) for link in self._links.values()]
        self._watcher.tell(self._health.close())
        watcher = asyncio.create_task(self._watcher.stop())
        recorder = asyncio.create_task(self._recorder.stop())
        if links:
            await asyncio.wait(links, timeout=TEARDOWN_WITHIN_S)
        torn_s = self._clock.monotonic_s() - began_s
        await watcher
        await recorder
        await asyncio.to_thread(self._spool.close)
        facts = {"torn_down_s": round(torn_s, 2), "ended_s": round(self._clock.monotonic_s() - began_s, 2)}
        log.info("ended", extra={**facts, "cut_short": sum(not link.done() for link in links)})


def analysed_stream(camera: Camera) -> StreamName:
    """The stream that looks are taken from: the small one, where there is one."""
    return "sub" if camera.sub is not None else "main"


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run the worker of the first argument."""
    await Worker(f"worker-{sys.argv[1]}", settings, TownFile(settings.run)).run(stop)


if __name__ == "__main__":
    run_child("worker", main)
