from __future__ import annotations

import dataclasses
import itertools

import pytest

from analytics.schedule import LookSchedule
from ingest.access_unit import AccessUnit, StreamFormat
from ingest.clock import ManualClock

FORM = StreamFormat("h264", b"", b"", None, 640, 360, "", 0)


class Town:
    """Cameras that send keyframes and an analyst who takes `look_s` for each look, on a clock moved by hand."""

    def __init__(self, look_s: float = 0.02, **options: float) -> None:
        self.clock = ManualClock()
        self.schedule = LookSchedule(self.clock, **options)
        self.look_s, self.looks, self.active = look_s, [], set()

    def offer(self, camera: str) -> None:
        now = self.clock.monotonic_s()
        unit = AccessUnit(b"", (), 0, 0, True, now, now, FORM)
        self.schedule.offer(camera, unit)

    def work(self, until_s: float) -> None:
        while self.clock.monotonic_s() < until_s:
            if (look := self.schedule.take(wait_s=0.0)) is None:
                self.clock.advance(0.01)
                continue
            camera, unit = look
            self.looks.append((camera, self.clock.monotonic_s(), self.clock.monotonic_s() - unit.received_s))
            self.clock.advance(self.look_s)
            self.schedule.done(camera, unit, camera in self.active, self.look_s)

    def run(self, gops_s: dict[str, float], for_s: float) -> None:
        begin = self.clock.monotonic_s()
        comings = sorted((n * gop_s, camera) for camera, gop_s in gops_s.items() for n in range(int(for_s / gop_s)))
        for at_s, camera in comings:
            self.work(begin + at_s)
            self.offer(camera)
        self.work(begin + for_s)

    def every_s(self, camera: str) -> list[float]:
        times = [at_s for each, at_s, _ in self.looks if each == camera]
        return [round(b - a, 1) for a, b in itertools.pairwise(times)]


@pytest.mark.parametrize(
    ("gop_s", "expected"), [(0.5, 4.0), (1.0, 4.0), (2.0, 4.0), (3.0, 3.0), (4.0, 4.0), (10.0, 10.0)]
)
def test_a_quiet_camera_is_looked_at_every_four_seconds_as_its_gop_allows(gop_s, expected):
    town = Town()
    town.run({"a": gop_s}, 60)
    assert town.every_s("a")
    assert all(abs(step - expected) <= 0.3 for step in town.every_s("a"))
    assert max(lag_s for _, _, lag_s in town.looks) < 0.3
    assert town.schedule.counters()["a"].looks_skipped == 0


def test_an_active_camera_is_looked_at_twice_as_often_and_calms_down():
    town = Town()
    town.active.add("a")
    town.run({"a": 1.0}, 20)
    assert set(town.every_s("a")[1:]) == {2.0}
    town.active.clear()
    town.looks.clear()
    town.run({"a": 1.0}, 40)
    assert town.every_s("a")[-3:] == [4.0, 4.0, 4.0]


def test_only_the_newest_keyframe_waits():
    town = Town()
    for _ in range(3):
        town.offer("a")
        town.clock.advance(1)
    _, unit = town.schedule.take(wait_s=0.0)
    assert unit.received_s == town.clock.monotonic_s() - 1
    assert town.schedule.take(wait_s=0.0) is None
    counters = town.schedule.counters()["a"]
    assert (counters.keyframes, counters.looks_skipped) == (3, 2)


def test_a_cameras_looks_never_overlap():
    town = Town()
    town.offer("a")
    camera, unit = town.schedule.take(wait_s=0.0)
    town.clock.advance(10)
    town.offer("a")
    assert town.schedule.take(wait_s=0.0) is None
    town.schedule.done(camera, unit, False, 0.0)
    assert town.schedule.take(wait_s=0.0) is not None


def test_twice_too_much_work_stretches_all_alike_and_is_counted():
    town = Town(look_s=0.1)
    cameras = {f"c{n:02}": 2.0 for n in range(80)}  # 80 looks of 0.1 s every 4 s: twice what one analyst can do
    town.active |= {f"c{n:02}" for n in range(8)}
    town.run(cameras, 60)
    quiet = [sum(each == camera for each, _, _ in town.looks) for camera in cameras if camera not in town.active]
    active = [sum(each == camera for each, _, _ in town.looks) for camera in town.active]
    assert min(quiet) >= max(quiet) - 2 > 3
    assert min(active) > 1.4 * max(quiet)
    counters = town.schedule.counters()
    assert all(each.looks_skipped > 0 for each in counters.values())
    assert all(each.analysis_lag_s < 2.5 for each in counters.values())


def test_the_budget_bounds_the_cpu_taken():
    town = Town(look_s=0.05, budget_cores=0.25)
    town.run({f"c{n:02}": 1.0 for n in range(60)}, 40)
    assert 0.2 < len(town.looks) * 0.05 / 40 < 0.27


def test_a_lost_camera_waits_no_more():
    town = Town()
    town.offer("a")
    town.schedule.forget("a")
    town.schedule.forget("unknown")
    assert town.schedule.take(wait_s=0.0) is None
    assert town.schedule.last_keyframe_s("a") == (None, 0.0)
    assert dataclasses.asdict(town.schedule.counters()["a"])["keyframes"] == 1
