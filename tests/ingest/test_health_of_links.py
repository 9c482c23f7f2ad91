"""The figures of real links to simulated cameras, and what the health watch makes of real faults."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from ingest.clock import SystemClock
from ingest.connect_gate import ConnectGate
from ingest.event import Event
from ingest.health import StreamHealth
from ingest.health_watch import HealthLimits, HealthWatch
from ingest.link import CameraLink
from ingest.secret import SecretUrl
from ingest.simulate import Fault, FaultKind, SimCamera, SimulatedTown
from ingest.simulate.feed import Feed

CAMERAS = ("well", "plug", "froze", "jumpy", "lossy", "late", "still")
QUICK = HealthLimits(loss_after_s=4.0, settled_s=1.0, timestamps_after_s=4.0)


async def test_each_fault_shows_as_itself() -> None:
    """Seven cameras, five faults: loss only where frames stay away, and each figure where it belongs."""
    cameras = [
        SimCamera(name, main="tiny", sub=None, own_port=name == "plug", clock_offset_s=-30.0 if name == "late" else 0.0)
        for name in CAMERAS
    ]
    clock = SystemClock()
    gate = ConnectGate()
    watch = HealthWatch(clock, 1, QUICK)
    told: list[Event] = []
    async with SimulatedTown(cameras=cameras) as town:
        links = [
            CameraLink(name, "main", SecretUrl(town.url(name)), clock=clock, gate=gate, rng=random.Random(1))
            for name in CAMERAS
        ]
        shown: dict[str, StreamHealth] = {}

        def look() -> None:
            streams, events = watch.observe([link.health() for link in links])
            shown.update((stream.camera_id, stream) for stream in streams)
            told.extend(events)

        async def until(true: Callable[[], object], timeout_s: float = 20) -> None:
            end_s = time.monotonic() + timeout_s
            look()
            while not true():
                assert time.monotonic() < end_s, (shown, told)
                await asyncio.sleep(0.1)
                look()

        for link in links:
            link.start()
        try:
            await until(lambda: all(stream.state == "live" for stream in shown.values()))
            await until(lambda: all(stream.media_rate is not None for stream in shown.values()))
            well = shown["well"]
            assert well.media_rate is not None and 0.9 < well.media_rate < 1.1
            assert well.jitter_ms is not None and 0 <= well.jitter_ms < 100
            assert (well.gaps, well.last_error_code) == (0, None)
            town.set_fault("plug", Fault(kind=FaultKind.REFUSE))
            town.set_fault("froze", Fault(kind=FaultKind.FREEZE))
            town.set_fault("jumpy", Fault(kind=FaultKind.JUMP, by_s=-3600))
            town.set_fault("lossy", Fault(kind=FaultKind.LOSS, percent=5))
            town.set_fault("still", Fault(kind=FaultKind.FROZEN_PICTURE))
            await until(lambda: len(told) >= 2)
            assert {(event.camera_id, event.code, event.state) for event in told} == {
                ("plug", "2.1", "opened"),
                ("froze", "2.1", "opened"),
            }
            reasons = {event.camera_id: event.attributes["reason_code"] for event in told}
            assert reasons == {"plug": "camera.refused", "froze": "camera.stalled"}
            await until(lambda: shown["lossy"].gaps > 0 and shown["late"].faults)
            assert shown["lossy"].lost_packets >= shown["lossy"].gaps
            assert {name: [fault.code for fault in shown[name].faults] for name in CAMERAS} == {
                "well": [],
                "plug": ["health.video_lost"],
                "froze": ["health.video_lost"],
                "jumpy": [],
                "lossy": [],
                "late": ["health.clock_off"],
                "still": [],
            }
            assert abs(float(shown["late"].faults[0].facts["offset_s"]) + 30) < 1
            town.clear("plug")
            town.clear("froze")
            await until(lambda: len(told) >= 4)
            ended = {event.camera_id: event for event in told[2:]}
            assert {event.state for event in ended.values()} == {"closed"} and set(ended) == {"plug", "froze"}
            assert ended["plug"].attributes["closed_because"] == "cleared"
            assert shown["plug"].last_error_code == "camera.refused" and shown["plug"].is_live
        finally:
            await asyncio.gather(*(link.stop() for link in links))


async def test_timestamps_that_stand_still_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every packet of a real session carries one RTP time: the link stays live, and the watch says what is wrong."""
    monkeypatch.setattr(Feed, "_rtp_time", lambda feed, unit: 4711)
    clock = SystemClock()
    watch = HealthWatch(clock, 1, HealthLimits(timestamps_after_s=1.0))
    async with SimulatedTown(cameras=[SimCamera("c-1", main="tiny", sub=None)]) as town:
        link = CameraLink("c-1", "main", SecretUrl(town.url("c-1")), clock=clock, gate=ConnectGate())
        link.start()
        try:
            told: list[Event] = []
            async with asyncio.timeout(20):
                while not told:
                    [shown], told = watch.observe([link.health()])
                    await asyncio.sleep(0.1)
            assert [(event.code, event.attributes["kind"]) for event in told] == [("5.11", "timestamps_stalled")]
            assert shown.state == "live" and [fault.code for fault in shown.faults] == ["health.timestamps_stalled"]
            assert shown.fps is not None and shown.fps > 20
            assert shown.media_rate is not None and shown.media_rate < 0.01
        finally:
            await link.stop()
