"""The supervisor over small real processes: what dies or hangs comes back, what only starves is left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from command.supervisor import Child, Supervisor

BEATS = """
import faulthandler, os, signal, sys, time
faulthandler.register(signal.SIGUSR2, all_threads=True)
def {place}():
    while True: {hang}
while True:
    open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
    os.replace(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(0.1)
    if os.path.exists(sys.argv[1] + ".hang"):
        os.remove(sys.argv[1] + ".hang")
        {place}()
"""


@asynccontextmanager
async def supervised(*children: Child) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor()
    for child in children:
        await supervisor.add(child)
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def until(condition: Callable[[], object], within_s: float = 15.0) -> float:
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s
        await asyncio.sleep(0.02)
    return time.monotonic() - began_s


def beating(folder: Path, hang: str = "pass") -> Child:
    code = BEATS.format(place="the_place_where_it_hangs", hang=hang)
    heart = folder / "heart"
    return Child("beating", [sys.executable, "-c", code, str(heart)], heart, hung_after_s=2.5)


def pid(heart: Path) -> int | None:
    return int(heart.read_text()) if heart.exists() else None


async def test_a_killed_child_is_started_again_at_once(tmp_path: Path) -> None:
    child = beating(tmp_path)
    assert child.heartbeat is not None
    async with supervised(child):
        await until(lambda: pid(tmp_path / "heart"))
        first = pid(tmp_path / "heart")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: pid(tmp_path / "heart") != first, 5)
    assert child.restarts == 1


async def test_a_child_that_loops_says_where_and_is_started_again(tmp_path: Path, capfd) -> None:
    child = beating(tmp_path)
    async with supervised(child):
        await until(lambda: pid(tmp_path / "heart"))
        first = pid(tmp_path / "heart")
        (tmp_path / "heart.hang").touch()
        await until(lambda: pid(tmp_path / "heart") != first)
    assert "the_place_where_it_hangs" in capfd.readouterr().err


async def test_a_stopped_child_is_killed_within_three_seconds(tmp_path: Path) -> None:
    child = beating(tmp_path)
    async with supervised(child):
        await until(lambda: pid(tmp_path / "heart"))
        process = psutil.Process(pid(tmp_path / "heart") or 0)
        await asyncio.sleep(0.3)  # let the supervisor hear it
        process.suspend()
        assert await until(lambda: not process.is_running(), 10) < 3.5
        await until(lambda: pid(tmp_path / "heart") != process.pid, 5)


async def test_a_child_that_only_starves_is_left_alone(tmp_path: Path) -> None:
    """It is woken again and again and does not get to its beat, as on a machine with too much to do."""
    child = beating(tmp_path, hang="time.sleep(0.005)")
    async with supervised(child):
        await until(lambda: pid(tmp_path / "heart"))
        (tmp_path / "heart.hang").touch()
        await until(lambda: child.pulse is not None and child.pulse.silent_s > 4)
        assert child.restarts == 0


async def test_children_of_a_stage_end_together_and_stages_in_reverse(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    slow = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    open(sys.argv[1], 'a').write(sys.argv[2] + '\\n'); time.sleep(0.5); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open(sys.argv[1] + '.' + sys.argv[2], 'w')\n"
        "while True: time.sleep(1)\n"
    )
    names = [("first", ""), ("w-1", "workers"), ("w-2", "workers"), ("w-3", "workers")]
    children = [Child(name, [sys.executable, "-c", slow, str(ends), name], stage=stage) for name, stage in names]
    async with supervised(*children):
        await until(lambda: all((tmp_path / f"ends.{name}").exists() for name, _ in names))
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 1.9  # four one after the other would be 2 s
    assert ends.read_text().split()[-1] == "first"
