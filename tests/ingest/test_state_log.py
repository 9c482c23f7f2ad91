"""What the log says of camera states, with a clock that is moved by hand."""

from __future__ import annotations

import logging

import pytest

from ingest.clock import ManualClock
from ingest.health import CameraState, StreamHealth
from ingest.state_log import LINES_A_SECOND, StateLog


class Told:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = ManualClock()
        self.log = StateLog(self.clock)
        self._caplog = caplog
        caplog.set_level(logging.INFO)

    def note(self, number: int, state: CameraState, code: str | None = None) -> None:
        health = StreamHealth(
            camera_id=f"c-{number:03d}", stream="main", state=state, reason_code=code, since=self.clock.now()
        )
        self.log.note(health)

    def after(self, seconds: float, streams: int = 128) -> list[str]:
        self.clock.advance(seconds)
        self.log.flush(streams)
        return self.lines()

    def lines(self) -> list[str]:
        found = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return found


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_a_starting_town_is_one_line(told: Told) -> None:
    for number in range(128):
        told.note(number, CameraState.CONNECTING)
        told.note(number, CameraState.LIVE)
        assert told.after(0.01) == []
    assert told.after(1.0) == ["streams live 128/128"]
    assert told.after(60.0) == []


def test_a_fault_and_the_return_are_told_once_each(told: Told) -> None:
    told.note(1, CameraState.LIVE)
    told.after(1.0)
    told.note(1, CameraState.STALLED, "camera.stalled")
    assert told.lines() == ["camera fault"]
    for _ in range(20):  # retries with the same reason
        told.note(1, CameraState.STALLED, "camera.stalled")
    assert told.lines() == []
    told.note(1, CameraState.UNREACHABLE, "camera.unreachable")
    assert told.lines() == ["camera fault"]
    told.note(1, CameraState.LIVE)
    assert told.lines() == ["camera is live again"]


def test_a_dead_switch_is_some_lines_and_a_count(told: Told) -> None:
    for number in range(128):
        told.note(number, CameraState.LIVE)
    told.after(1.0)
    for number in range(128):
        told.note(number, CameraState.UNREACHABLE, "camera.unreachable")
    assert told.lines() == ["camera fault"] * LINES_A_SECOND
    assert told.after(1.0) == ["more cameras changed", "streams live 0/128"]


def test_a_removed_camera_is_neither_a_fault_nor_counted(told: Told) -> None:
    told.note(1, CameraState.LIVE)
    told.note(2, CameraState.LIVE)
    told.after(1.0)
    told.note(2, CameraState.STOPPED)
    told.log.forget("c-002")
    assert told.after(1.0, streams=1) == ["streams live 1/1"]
