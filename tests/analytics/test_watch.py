"""The whole watcher: real keyframes, real decoder and detector, threads; only the clock is moved by hand."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

import cv2
import numpy as np
import pytest

from analytics.evidence import EvidenceStore
from analytics.last_pictures import LastPictures
from analytics.open_events import OpenEvents, adopt
from analytics.watch import Watcher, WatchOptions
from ingest.clock import ManualClock
from ingest.event import Event, utc_s
from ingest.fanout import Fanout
from ingest.spool import Spool


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - threads do the work
            await asyncio.sleep(0.005)


class Bench:
    """A watcher over cameras that all see the same clip."""

    def __init__(self, folder: Path, detector, cameras, emit=None, epoch: int = 1, **options) -> None:
        self.clock, self.told = ManualClock(), []
        self.evidence = EvidenceStore(folder / "evidence")
        self.watcher = Watcher(
            cameras,
            emit=emit or self.told.append,
            detector=detector,
            evidence=self.evidence,
            pictures=LastPictures(folder / "pictures"),
            open_events=folder / "open.json",
            epoch=epoch,
            timezone=ZoneInfo("Asia/Shanghai"),
            clock=self.clock,
            options=WatchOptions(active_every_s=2.0, quiet_every_s=2.0, **options),
        )
        self.camera_ids = [camera.id for camera in cameras]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bench]:
        await self.watcher.start()
        try:
            yield self
        finally:
            await self.watcher.stop()

    def ended(self, camera_id: str) -> int:
        return self.watcher.stats()[camera_id].get("looks", 0)

    def has_looked(self, camera_id: str, times: int) -> bool:
        return self.ended(camera_id) >= times

    async def show(self, *units, cameras=None) -> None:
        """Each unit to each camera, 2 s apart, waiting until it was looked at."""
        for unit in units:
            self.clock.advance(2.0)
            now = self.clock.now()
            due = {camera_id: self.ended(camera_id) + 1 for camera_id in cameras or self.camera_ids}
            for camera_id in due:
                live = dataclasses.replace(unit, wall_s=utc_s(now), received_s=self.clock.monotonic_s())
                self.watcher.on_keyframe(camera_id, live)
            for camera_id, count in due.items():
                await until(functools.partial(self.has_looked, camera_id, count))


@pytest.fixture
def units(vtest_keyframes):
    """Seconds 48 to 78: nobody in the strip, somebody from 52 to 64, nobody."""
    return vtest_keyframes[24:]


async def test_each_camera_tells_its_intrusion_once_with_evidence_on_disk(tmp_path, detector, make_camera, units):
    told: list[Event] = []
    bench = Bench(tmp_path, detector, [make_camera("c-1"), make_camera("c-2")], emit=lambda event: tell(event))

    def tell(event: Event) -> None:
        assert all(bench.evidence.path(each.sha256).is_file() for each in event.evidence)  # before it is told
        told.append(event)

    async with bench.running():
        await bench.show(*units[:14])
    for camera_id in bench.camera_ids:
        states = [event.state for event in told if event.camera_id == camera_id]
        assert states == ["opened", "updated", "closed"]
    for event in told:
        assert event.evidence
        assert event.emitted_at is not None
        assert event.epoch == 1
    assert len({event.id for event in told}) == 2
    stats = bench.watcher.stats()["c-1"]
    assert (stats["looks"], stats["looks_skipped"], stats["detector_runs"], stats["events"]) == (14, 0, 14, 1)
    assert stats["errors"] == {}


async def test_the_last_picture_is_there_for_the_page(tmp_path, detector, make_camera, units):
    bench = Bench(tmp_path, detector, [make_camera("c-1")])
    async with bench.running():
        assert bench.watcher.last_picture("c-1") is None
        await bench.show(units[0], units[1])
        await until(lambda: bench.watcher.last_picture("c-1")[1] == bench.clock.now())
    jpeg, _ = bench.watcher.last_picture("c-1")
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (480, 640, 3)


async def test_bad_units_cost_one_look_each_and_are_named(tmp_path, detector, make_camera, units):
    bench = Bench(tmp_path, detector, [make_camera("c-1"), make_camera("c-2")])
    async with bench.running():
        for seed in range(4):
            bad = dataclasses.replace(units[2], data=random.Random(seed).randbytes(3000))
            await bench.show(bad, cameras=["c-1"])
            await bench.show(units[2], cameras=["c-2"])
        await bench.show(units[3], cameras=["c-1"])
        bench.watcher.on_keyframe("unknown", units[2])
        bench.watcher.on_keyframe("c-1", dataclasses.replace(units[2], is_keyframe=False))
        stats = bench.watcher.stats()
        assert sum(stats["c-1"]["errors"].values()) == 4
        assert set(stats["c-1"]["errors"]) <= {"picture.bad_data", "picture.nothing"}
        assert stats["c-2"]["errors"] == {}
        assert [event.camera_id for event in bench.told if event.state == "opened"] == ["c-2", "c-1"]


async def test_a_detector_that_fails_costs_its_look_only(tmp_path, detector, make_camera, units):
    class Moody:
        input_size = detector.input_size
        calls = 0

        def detect(self, rgb):
            self.calls += 1
            if self.calls == 1:
                raise RuntimeError("out of luck")
            return detector.detect(rgb)

    bench = Bench(tmp_path, Moody(), [make_camera("c-1")])
    async with bench.running():
        await bench.show(units[2], units[3])
        assert bench.watcher.stats()["c-1"]["errors"] == {"look.failed": 1}
        assert [event.state for event in bench.told] == ["opened"]


async def test_a_lost_camera_ends_its_event_and_a_stop_all_others(tmp_path, detector, make_camera, units):
    bench = Bench(tmp_path, detector, [make_camera("c-1"), make_camera("c-2")])
    async with bench.running():
        await bench.show(units[2])
        bench.watcher.camera_lost("c-1")
        bench.watcher.camera_lost("unknown")
        await until(lambda: len(bench.told) == 3)
    ends = {event.camera_id: event.attributes["closed_because"] for event in bench.told if event.state == "closed"}
    assert ends == {"c-1": "camera_lost", "c-2": "stopped"}
    assert (tmp_path / "open.json").read_text(encoding="utf-8") == "[]"


async def test_silence_ends_an_event_even_if_nobody_says_that_the_camera_is_lost(
    tmp_path, detector, make_camera, units
):
    bench = Bench(tmp_path, detector, [make_camera("c-1")])
    async with bench.running():
        await bench.show(units[2])
        bench.clock.advance(31)
        await until(lambda: len(bench.told) == 2)
        assert bench.told[-1].attributes["closed_because"] == "camera_lost"


async def test_events_that_the_spool_refuses_wait_in_order(tmp_path, detector, make_camera, units):
    told, is_full = [], True

    def emit(event: Event) -> None:
        if is_full:
            raise OSError(28, "No space left on device")
        told.append(event)

    bench = Bench(tmp_path, detector, [make_camera("c-1"), make_camera("c-2")], emit=emit)
    async with bench.running():
        await bench.show(units[2], units[4])
        assert told == []
        assert bench.watcher.untold_events >= 2
        is_full = False
        bench.clock.advance(1.5)
        await until(lambda: bench.watcher.untold_events == 0)
        for camera_id in bench.camera_ids:
            assert [event.number for event in told if event.camera_id == camera_id][:1] == [1]
    for camera_id in bench.camera_ids:
        numbers = [event.number for event in told if event.camera_id == camera_id]
        assert numbers == list(range(1, len(numbers) + 1))


async def test_a_joined_stream_is_followed_by_its_keyframes_and_can_be_replaced(tmp_path, detector, make_camera, units):
    bench = Bench(tmp_path, detector, [make_camera("c-1")])
    sub, main = Fanout("sub"), Fanout("main")

    def publish(fanout: Fanout, unit, **changes) -> None:
        bench.clock.advance(2.0)
        now = bench.clock.now()
        live = dataclasses.replace(unit, wall_s=utc_s(now), received_s=bench.clock.monotonic_s(), **changes)
        fanout.publish(live)

    publish(sub, units[0])
    bench.clock.advance(300)  # the kept keyframe is old news
    async with bench.running():
        bench.watcher.join("c-1", sub)
        publish(sub, units[2])
        publish(sub, units[2], is_keyframe=False)
        await until(functools.partial(bench.has_looked, "c-1", 1))
        assert bench.watcher.stats()["c-1"]["keyframes"] == 1
        bench.watcher.join("c-1", main)
        publish(sub, units[3])
        publish(main, units[3])
        await until(functools.partial(bench.has_looked, "c-1", 2))
        assert bench.watcher.stats()["c-1"]["keyframes"] == 2
        assert (sub.readers, main.readers) == (0, 1)
        main.close()
    assert [event.state for event in bench.told] == ["opened", "closed"]


_CHILD = """
import asyncio, dataclasses, sys, time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo
from analytics.clip import clip_keyframes
from analytics.detector import OnnxDetector
from analytics.evidence import EvidenceStore
from analytics.last_pictures import LastPictures
from analytics.open_events import OpenEvents, adopt
from analytics.model import load_model
from analytics.watch import Watcher
from ingest.camera import Camera
from ingest.spool import Spool

async def main(folder, clip, camera):
    spool = Spool(folder / "w1.spool")
    watcher = Watcher([camera], emit=lambda event: spool.put("event", event.model_dump_json()),
                      detector=OnnxDetector(load_model()), evidence=EvidenceStore(folder / "evidence"),
                      pictures=LastPictures(folder / "pictures"), open_events=folder / "open.json", epoch=1,
                      timezone=ZoneInfo("Asia/Shanghai"))
    await watcher.start()
    unit = list(clip_keyframes(clip, datetime.now(UTC)))[26]
    watcher.on_keyframe(camera.id, dataclasses.replace(unit, received_s=time.monotonic()))
    await asyncio.sleep(60)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), Camera.model_validate_json(sys.stdin.read())))
"""


async def test_what_a_killed_worker_left_open_is_closed_as_interrupted(
    tmp_path, detector, make_camera, vtest_path, units
):
    camera = make_camera("c-1")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, str(tmp_path), str(vtest_path), stdin=asyncio.subprocess.PIPE
    )
    child.stdin.write(camera.model_dump_json().encode())
    child.stdin.close()
    reader = Spool(tmp_path / "w1.spool")
    await until(lambda: reader.count == 1)
    child.send_signal(signal.SIGKILL)
    await child.wait()

    writer = Spool(tmp_path / "w1.spool")
    bench = Bench(tmp_path, detector, [camera], emit=lambda e: writer.put("event", e.model_dump_json()), epoch=2)
    async with bench.running():
        await bench.show(units[0])
    writer.close()
    opened, closed = (Event.model_validate_json(row.body) for row in reader.read(10))
    reader.close()
    assert (opened.state, closed.state) == ("opened", "closed")
    assert opened.id == closed.id
    assert closed.order() > opened.order()
    assert closed.attributes["closed_because"] == "interrupted"
    assert closed.evidence == opened.evidence
    assert bench.evidence.path(closed.evidence[0].sha256).is_file()


async def test_cameras_come_change_and_go_while_it_runs(tmp_path, detector, make_camera, units):
    bench = Bench(tmp_path, detector, [make_camera("c-1")])
    async with bench.running():
        bench.watcher.add_camera(make_camera("c-2"))
        await bench.show(*units[:4], cameras=["c-1", "c-2"])  # somebody has walked in
        opened = {event.camera_id: event for event in bench.told if event.state == "opened"}
        assert opened.keys() == {"c-1", "c-2"}

        renamed = make_camera("c-1").model_copy(update={"name": "West gate"})
        await bench.watcher.replace_camera(renamed)
        await bench.show(units[4], cameras=["c-1"])
        mine = [event for event in bench.told if event.camera_id == "c-1"]
        assert {event.id for event in mine} == {opened["c-1"].id}  # goes on
        assert "closed" not in [event.state for event in mine]

        await bench.watcher.replace_camera(make_camera("c-1", priority=1))
        ended = bench.told[-1]
        assert (ended.id, ended.state) == (opened["c-1"].id, "closed")
        assert ended.attributes["closed_because"] == "reconfigured"
        await bench.show(units[5], cameras=["c-1"])
        assert (bench.told[-1].state, bench.told[-1].priority) == ("opened", 1)

        await bench.watcher.remove_camera("c-2")
        assert (bench.told[-1].id, bench.told[-1].state) == (opened["c-2"].id, "closed")
        assert bench.watcher.stats().keys() == {"c-1"}
        bench.watcher.on_keyframe("c-2", units[6])  # a late one is ignored
        await bench.watcher.remove_camera("c-2")  # and so is a second removal
    assert bench.told[-1].attributes["closed_because"] == "stopped"


async def test_an_heir_closes_what_other_workers_left_open(tmp_path, detector, make_camera, units):
    told: list[Event] = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        bench = Bench(folder, detector, [make_camera(f"c-{number}")], emit=told.append, epoch=10 * number)
        await bench.watcher.start()
        await bench.show(*units[:4])
        shutil.copy(folder / "open.json", tmp_path / f"left-{number}.json")  # as after kill -9
        await bench.watcher.stop()
    opened = {event.id: event for event in told if event.state == "opened"}
    assert len(opened) == 2
    (tmp_path / "left-3.json").write_bytes(b"torn")
    assert adopt(tmp_path / "left-1.json", [tmp_path / "left-2.json", tmp_path / "left-3.json"]) == 2
    assert not (tmp_path / "left-2.json").exists() and (tmp_path / "left-3.unreadable").exists()
    closed = OpenEvents(tmp_path / "left-1.json").left_open(11, bench.clock.now())
    assert {event.id for event in closed} == opened.keys()
    for event in closed:
        assert event.state == "closed" and event.epoch > opened[event.id].epoch
