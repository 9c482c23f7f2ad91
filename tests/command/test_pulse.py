"""Hung or starved: real processes that stop, block, spin and wait; time is told to the pulse by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from command.pulse import BUSY_S, FIRST_BEAT_S, LOOK_EVERY_S, STARVED_AFTER_S, Pulse
from command.supervisor import Child

BEAT = "import os, sys, time; open(sys.argv[1] + '.new', 'w').close(); os.replace(sys.argv[1] + '.new', sys.argv[1]); "


@contextmanager
def process(heart: Path, then: str) -> Iterator[subprocess.Popen[bytes]]:
    """Beats once and then does something else."""
    child = subprocess.Popen([sys.executable, "-c", BEAT + then, str(heart)])
    try:
        deadline_s = time.monotonic() + 20
        while not heart.exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        yield child
    finally:
        child.kill()
        child.wait()


def silence(pulse: Pulse, start_s: float, want_s: float) -> tuple[str | None, float]:
    """Look on with a clock that runs as fast as one likes; (verdict, after how many seconds)."""
    silent_s = 0.0
    while silent_s < want_s:
        silent_s += LOOK_EVERY_S
        if (verdict := pulse.look(start_s + silent_s)) is not None:
            return verdict, silent_s
    return None, silent_s


def beaten(heart: Path, child: subprocess.Popen[bytes]) -> Pulse:
    """A pulse that has seen the child's beat."""
    pulse = Pulse(heart.with_name("none"), child.pid, 2.5, 0.0)
    pulse._heartbeat = heart
    assert pulse.look(0.0) is None
    return pulse


def test_a_stopped_process_is_found_within_three_seconds(tmp_path: Path) -> None:
    with process(tmp_path / "heart", "time.sleep(60)") as child:
        pulse = beaten(tmp_path / "heart", child)
        child.send_signal(signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
        verdict, after_s = silence(pulse, 0.0, 5.0)
    assert verdict == "stopped" and after_s <= 2.75


def test_a_process_that_is_blocked_in_a_call_is_found(tmp_path: Path) -> None:
    with process(tmp_path / "heart", "os.read(os.pipe()[0], 1)") as child:
        time.sleep(0.2)  # until it is in the call
        verdict, after_s = silence(beaten(tmp_path / "heart", child), 0.0, 5.0)
    assert verdict == "blocked" and after_s <= 2.75


def test_an_endless_loop_is_found_once_it_has_run_long_enough(tmp_path: Path) -> None:
    with process(tmp_path / "heart", "\nwhile True: pass") as child:
        pulse = beaten(tmp_path / "heart", child)
        verdict = None
        began_s = time.monotonic()
        while verdict is None and time.monotonic() - began_s < 30:
            time.sleep(LOOK_EVERY_S)
            verdict = pulse.look(time.monotonic() - began_s)
    assert verdict == "busy"


def test_a_starved_process_is_left_alone(tmp_path: Path) -> None:
    """It wakes again and again and gets nowhere: as behind Python's lock, or on a machine with too much to do."""
    with process(tmp_path / "heart", "\nwhile True: time.sleep(0.001)") as child:
        pulse = beaten(tmp_path / "heart", child)
        for number in range(1, int(STARVED_AFTER_S / LOOK_EVERY_S)):
            time.sleep(0.02)  # long enough to be scheduled in between
            assert pulse.look(number * LOOK_EVERY_S) is None, pulse.silent_s
        verdict, _ = silence(pulse, STARVED_AFTER_S, 2.0)
    assert verdict is not None  # but not for ever


def test_a_process_that_works_off_a_pile_is_left_alone(tmp_path: Path) -> None:
    """It runs all the time and does not get to its beat, but it reads on: killing it would make the pile larger."""
    with process(tmp_path / "heart", "\nwhile True: sum(range(20000)); open('/dev/null').read()") as child:
        pulse = beaten(tmp_path / "heart", child)
        began_s = time.monotonic()
        while _cpu_s(child.pid) < BUSY_S + 1.0:
            time.sleep(LOOK_EVERY_S)
            assert pulse.look(time.monotonic() - began_s) is None
            assert time.monotonic() - began_s < STARVED_AFTER_S, "a machine that is this busy proves nothing"


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def test_time_in_which_the_supervisor_slept_does_not_count(tmp_path: Path) -> None:
    with process(tmp_path / "heart", "time.sleep(60)") as child:
        pulse = beaten(tmp_path / "heart", child)
        assert pulse.look(3600.0) is None
        assert pulse.silent_s < 1.0


def test_the_first_beat_has_patience_and_the_last_word_of_a_dead_one_is_none(tmp_path: Path) -> None:
    heart = tmp_path / "heart"
    heart.write_text("the dead one's")
    pulse = Pulse(heart, os.getpid(), 2.5, 0.0)
    assert silence(pulse, 0.0, FIRST_BEAT_S - 1.0)[0] is None
    assert silence(pulse, FIRST_BEAT_S - 1.0, 3.0)[0] == "never_began"


@pytest.mark.parametrize("spacing_s,expected", [(1.0, [0.0] * 5 + [1.0, 2.0, 4.0]), (61.0, [0.0] * 8)])
def test_restarts_are_free_until_the_budget_is_spent_and_then_wait_longer(
    spacing_s: float, expected: list[float]
) -> None:
    child = Child("one", ["true"])
    assert [child.restart_wait_s(number * spacing_s) for number in range(8)] == expected
