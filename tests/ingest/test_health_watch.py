"""Faults and events of camera health, second by second on a hand-moved clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from ingest.clock import ManualClock
from ingest.damping import Damper
from ingest.event import Event
from ingest.health import CameraState, StreamHealth
from ingest.health_watch import HealthLimits, HealthWatch

LIVE, STALLED, REFUSED = CameraState.LIVE, CameraState.STALLED, CameraState.REFUSED
CODES = {STALLED: "camera.stalled", REFUSED: "camera.refused"}


class Bench:
    """One camera; `run` shows its streams' states once a second."""

    def __init__(self, limits: HealthLimits | None = None, **how: Any) -> None:
        self.clock = ManualClock()
        self.watch = HealthWatch(self.clock, 3, limits, **how)
        self.told: list[Event] = []
        self.shown: list[StreamHealth] = []
        self.last_frame_at: dict[str, datetime] = {}

    def health(self, stream: str, state: CameraState, **facts: Any) -> StreamHealth:
        if state is LIVE:
            self.last_frame_at[stream] = self.clock.now()
        return StreamHealth(
            camera_id="c-1",
            stream=stream,
            state=state,
            since=self.clock.now(),
            reason_code=CODES.get(state),
            last_frame_at=self.last_frame_at.get(stream),
            **facts,
        )

    def run(
        self, seconds: float, main: CameraState = LIVE, sub: CameraState | None = None, **facts: Any
    ) -> list[Event]:
        told = len(self.told)
        for _ in range(round(seconds)):
            streams = [self.health("main", main, **facts)]
            if sub is not None:
                streams.append(self.health("sub", sub))
            self.shown, events = self.watch.observe(streams)
            self.told += events
            self.clock.advance(1.0)
        return self.told[told:]

    def codes(self, stream: int = 0) -> list[str]:
        return [fault.code for fault in self.shown[stream].faults]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_loss_that_lasts_is_one_event_from_the_last_frame_to_the_first(bench: Bench) -> None:
    bench.run(20)
    last_frame_at = bench.last_frame_at["main"]
    assert bench.run(29, STALLED) == []
    assert bench.codes() == []
    [opened] = bench.run(100, STALLED)
    assert (opened.state, opened.code, opened.camera_id, opened.epoch, opened.number) == ("opened", "2.1", "c-1", 3, 1)
    assert opened.started_at == last_frame_at
    assert opened.attributes["reason_code"] == "camera.stalled"
    assert bench.codes() == ["health.video_lost"]
    back_at = bench.clock.now()
    assert bench.run(10) == []
    [closed] = bench.run(5)
    assert (closed.id, closed.state, closed.ended_at) == (opened.id, "closed", back_at)
    assert closed.order() > opened.order()
    assert closed.attributes["closed_because"] == "cleared"
    assert closed.attributes["duration_s"] == (back_at - last_frame_at).total_seconds()
    assert bench.codes() == []


def test_a_restart_of_the_camera_is_nothing(bench: Bench) -> None:
    for _ in range(10):
        assert bench.run(25, REFUSED) == []
        assert bench.run(15) == []


def test_a_camera_that_comes_and_goes_is_one_loss(bench: Bench) -> None:
    """5 s down, 4 s up, for an hour: opened once, stated now and then, closed once."""
    bench.run(20)
    for _ in range(400):
        bench.run(5, STALLED)
        bench.run(4)
    bench.run(60)
    states = [event.state for event in bench.told]
    assert (states[0], states[-1]) == ("opened", "closed")
    assert set(states[1:-1]) == {"updated"}
    assert len(states) <= 2 + 6
    assert bench.told[-2].attributes["drops"] > 300
    assert len({event.id for event in bench.told}) == 1


def test_losses_soon_after_one_another_need_longer_to_settle(bench: Bench) -> None:
    """Two hours of 40 s down, 60 s up."""
    for _ in range(72):
        bench.run(40, REFUSED)
        bench.run(60)
    assert len([event for event in bench.told if event.state == "opened"]) <= 4
    bench.told.clear()
    bench.run(1000)
    assert [event.state for event in bench.told] == ["closed"]
    bench.run(40, REFUSED)
    assert len(bench.run(12)) == 1  # calm again: settles as fast as ever


def test_both_streams_are_one_event_and_one_of_them_is_enough(bench: Bench) -> None:
    bench.run(5, LIVE, LIVE)
    [opened] = bench.run(40, LIVE, REFUSED)
    assert opened.attributes["streams"] == ["sub"]
    assert bench.codes(0) == [] and bench.codes(1) == ["health.video_lost"]
    told = bench.run(70, STALLED, REFUSED)
    assert [event.state for event in told] == ["updated"]
    assert told[0].attributes["streams"] == ["main", "sub"]
    assert told[0].attributes["reason_code"] == "camera.stalled"
    assert bench.run(12, LIVE, REFUSED) == []
    assert [event.state for event in bench.run(12, LIVE, LIVE)] == ["closed"]


def test_another_reason_is_told_but_not_every_second(bench: Bench) -> None:
    bench.run(40, STALLED)
    bench.told.clear()
    for _ in range(120):
        bench.run(1, REFUSED)
        bench.run(1, STALLED)
    assert 1 <= len(bench.told) <= 4
    assert {event.state for event in bench.told} == {"updated"}


def test_never_seen_is_lost_too(bench: Bench) -> None:
    """From the start of the watch; the first seconds of a start are no loss."""
    started_at = bench.clock.now()
    assert bench.run(29, CameraState.CONNECTING) == []
    [opened] = bench.run(5, CameraState.UNREACHABLE)
    assert opened.started_at == started_at


def test_what_is_open_is_closed_when_the_camera_or_the_worker_goes(bench: Bench) -> None:
    bench.run(40, REFUSED)
    [closed] = bench.watch.forget("c-1")
    assert (closed.state, closed.attributes["closed_because"]) == ("closed", "reconfigured")
    assert bench.watch.forget("c-1") == []
    bench.run(40, REFUSED)
    [closed] = bench.watch.close()
    assert (closed.state, closed.attributes["closed_because"]) == ("closed", "stopped")
    assert bench.watch.close() == []


def test_a_stream_that_is_no_longer_pulled_ends_its_loss(bench: Bench) -> None:
    bench.run(40, LIVE, REFUSED)
    [closed] = bench.run(2, LIVE)
    assert closed.attributes["closed_because"] == "reconfigured"


def test_the_wall_clock_may_step(bench: Bench) -> None:
    bench.run(20)
    bench.clock.step_wall(3600)
    assert bench.run(20, STALLED) == []
    [opened] = bench.run(20, STALLED)
    bench.clock.step_wall(-86_400)
    [closed] = bench.run(12)
    assert closed.ended_at is not None and closed.ended_at >= opened.started_at
    assert closed.updated_at >= opened.updated_at


@pytest.mark.parametrize("offset_s", [2.1, -2.1, 7200.0])
def test_a_clock_that_is_off_is_a_fault_and_no_event(bench: Bench, offset_s: float) -> None:
    assert bench.run(3, clock_offset_s=1.9) == [] and bench.codes() == []
    assert bench.run(60, clock_offset_s=offset_s) == []
    [fault] = bench.shown[0].faults
    assert (fault.code, fault.facts["offset_s"]) == ("health.clock_off", f"{offset_s:+.1f}")
    assert fault.since == bench.clock.now() - timedelta(seconds=60)
    bench.run(1, clock_offset_s=1.8)
    assert bench.codes() == ["health.clock_off"]  # a little is not enough to clear it
    bench.run(1, clock_offset_s=1.4)
    assert bench.codes() == []
    assert bench.shown[0].is_live


@pytest.mark.parametrize("offset_s", [None, 0.0, -56 * 366 * 86_400.0])
def test_a_camera_without_a_clock_is_not_blamed(bench: Bench, offset_s: float | None) -> None:
    bench.run(5, clock_offset_s=offset_s)
    assert bench.codes() == []


def test_timestamps_that_stand_still_are_told_apart_from_loss(bench: Bench) -> None:
    bench.run(20, media_rate=1.0)
    assert bench.run(29, media_rate=0.0003) == []
    [opened] = bench.run(10, media_rate=0.0003)
    assert (opened.code, opened.attributes["kind"]) == ("5.11", "timestamps_stalled")
    assert bench.codes() == ["health.timestamps_stalled"]
    assert bench.run(30, media_rate=0.0003) == []
    [closed] = bench.run(2, media_rate=1.0)
    assert (closed.id, closed.state) == (opened.id, "closed")


def test_live_needs_fresh_footage_where_something_is_recorded() -> None:
    fresh: list[bool | None] = [None]
    bench = Bench(is_fresh=lambda camera, stream: fresh[0])
    bench.run(30)
    assert bench.codes() == [] and bench.shown[0].is_live
    fresh[0] = True
    bench.run(30)
    fresh[0] = False
    assert bench.run(15, gop_s=2.0) == []
    assert bench.codes() == []
    assert bench.run(5, gop_s=2.0) == []
    assert bench.codes() == ["health.footage_stale"]
    assert bench.shown[0].state is LIVE and not bench.shown[0].is_live
    bench.run(1, gop_s=30.0)
    assert bench.codes() == []  # a segment begins at a keyframe
    fresh[0] = True
    bench.run(1)
    assert bench.shown[0].is_live


def test_damper() -> None:
    damper = Damper(10, 35, 100)
    assert damper.needed_s(0) == 10
    damper.came(0)
    damper.left(1)
    assert damper.needed_s(50) == 20
    damper.came(50)
    assert damper.needed_s(500) == 20  # no calm while it lasts
    damper.left(560)
    assert damper.needed_s(570) == 35
    assert damper.needed_s(660) == 10
    damper.came(661)
    damper.left(662)
    assert damper.needed_s(663) == 20
