"""An ingest worker: its cameras' links, the packets' tap, and the watcher that turns keyframes into events.

Argument: the worker's number. Events go into its spool, durable before anything else happens to them; its report file
is its heartbeat. Killed at any instruction, the next start closes what was left open and goes on.
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
from ingest.link import CameraLink
from ingest.machine import Limit, Need, UdpDrops, limits, take_open_files
from ingest.spool import Spool
from ingest.streams import Streams, read_streams
from ingest.tap import TapServer

log = logging.getLogger(__name__)

SOONEST_REPORT_S = 0.2  # after the one before
LATEST_REPORT_S = 1.0
LIMITS_EVERY_S = 10.0


class Worker:
    """The cameras of one worker. `run` returns when `stop` is set, with every session torn down."""

    def __init__(self, name: str, settings: Settings, streams: Streams) -> None:
        self._name = name
        self._settings = settings
        self._clock = SystemClock()
        self._spool = Spool(settings.spools / f"{name}.spool", bell=Bell(settings.run / "store.bell"))
        self._watcher = Watcher(
            streams.cameras,
            emit=self._emit,
            detector=OnnxDetector(load_model()),
            evidence=EvidenceStore(settings.evidence),
            pictures=LastPictures(settings.pictures),
            open_events=settings.spools / f"{name}.open.json",
            epoch=next_epoch(settings.spools / f"{name}.epoch"),
            timezone=streams.zone_info,
            clock=self._clock,
            options=WatchOptions(quiet_every_s=settings.look_every_s),
        )
        self._changed = asyncio.Event()
        gate = ConnectGate()
        self._links: dict[tuple[str, str], CameraLink] = {}
        self._analysed: dict[str, StreamName] = {}
        for camera in streams.cameras:
            self._add(camera, gate)
        may_be_udp = any(camera.transport in ("auto", "udp") for camera in streams.cameras)
        self._need = Need(len(self._links), udp=may_be_udp)
        self._udp_drops = UdpDrops()
        self._limits: list[Limit] = []
        self._limits_s = float("-inf")

    def _add(self, camera: Camera, gate: ConnectGate) -> None:
        analysed: StreamName = "sub" if camera.sub is not None else "main"
        self._analysed[camera.id] = analysed
        urls = [("main", camera.main)] + ([("sub", camera.sub)] if camera.sub is not None else [])
        for stream, url in urls:
            self._links[camera.id, stream] = CameraLink(
                camera.id,
                "sub" if stream == "sub" else "main",
                url,
                clock=self._clock,
                gate=gate,
                transport=camera.transport,
                on_state=self._on_state,
            )

    def _emit(self, event: Event) -> None:
        self._spool.put("event", event.model_dump_json())
        if event.state != "updated":
            facts = {"camera": event.camera_id, "code": event.code, "state": event.state, "id": str(event.id)}
            log.info("event", extra=facts)

    def _on_state(self, health: StreamHealth) -> None:
        self._changed.set()
        is_analysed = health.stream == self._analysed[health.camera_id]
        if is_analysed and health.state not in (CameraState.LIVE, CameraState.CONNECTING, CameraState.WAITING):
            self._watcher.camera_lost(health.camera_id)

    def _fanout(self, camera_id: str, stream: str) -> Fanout | None:
        link = self._links.get((camera_id, stream))
        return link.fanout if link is not None else None

    async def _feed(self, camera_id: str) -> None:
        """Keyframes of one camera to the watcher, which takes the newest when it gets to it."""
        link = self._links[camera_id, self._analysed[camera_id]]
        async for unit in link.fanout.join("analysis", capacity_units=2, keyframes_only=True):
            self._watcher.on_keyframe(camera_id, unit)

    def _analysis(self) -> dict[str, Any]:
        return {
            "cameras": self._watcher.stats(),
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
            self._limits = limits(self._need, self._udp_drops.sample())
            for limit in self._limits:
                if not limit.ok and limit.code not in before:
                    log.warning("%s", limit.sentence("en"), extra={"limit": limit.name, "code": limit.code})
        return self._limits

    def _report(self) -> None:
        healths = [link.health() for link in self._links.values()]
        beat(
            self._settings.run / f"{self._name}.json",
            report_body(self._name, healths, self._analysis(), self._look_at_machine()),
        )

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

    async def run(self, stop: asyncio.Event) -> None:
        """Pull, watch and tell until `stop`."""
        take_open_files()
        await self._watcher.start()
        tap = TapServer(self._settings.tap_socket, self._fanout)
        await tap.start()
        feeds = [asyncio.create_task(self._feed(camera), name=f"feed {camera}") for camera in self._analysed]
        for link in self._links.values():
            link.start()
        try:
            await self._report_until(stop)
        finally:
            await tap.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(4):
                    await asyncio.gather(*(link.stop() for link in self._links.values()))
            for feed in feeds:
                feed.cancel()
            await asyncio.gather(*feeds, return_exceptions=True)
            await self._watcher.stop()
            await asyncio.to_thread(self._spool.close)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run the worker of the first argument."""
    streams, _ = read_streams(settings.streams)
    assert streams is not None  # the supervisor has refused an unreadable file
    await Worker(f"worker-{sys.argv[1]}", settings, streams).run(stop)


if __name__ == "__main__":
    run_child("worker", main)
