"""How every child process lives: named logs, death with its parent, SIGTERM as a clean end, uvloop.

`run_child("media", main)` calls `await main(settings, stop)`, where `stop` is set by SIGTERM or SIGINT. A child never
outlives its supervisor, even when that is killed with -9 (PR_SET_PDEATHSIG; the supervisor spawns from its main
thread, which lives as long as it does).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from command.settings import Settings
from command.supervisor import HANG_SIGNAL
from ingest.logs import set_up_logs
from ingest.machine import take_open_files

_PR_SET_PDEATHSIG = 1  # prctl(2)


Main = Callable[[Settings, asyncio.Event], Awaitable[None]]


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends; leave at once if it has ended already."""
    parent = int(os.environ.get("GRIDWATCH_SUPERVISOR_PID", "0"))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent and os.getppid() != parent:
        sys.exit(0)


def run_child(name: str, main: Main) -> None:
    """Run one child process to its end; an uncaught error is logged by Python and ends with exit code 1."""
    die_with_parent()
    faulthandler.enable()
    faulthandler.register(HANG_SIGNAL, all_threads=True)  # the supervisor asks where it hangs before it kills
    set_up_logs(name)
    take_open_files()
    settings = Settings.from_environment()

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await main(settings, stop)

    uvloop.run(supervised())


def beat(path: Path, body: str) -> None:
    """Write a child's heartbeat: whole or not at all, so that readers never see half of it."""
    half = path.with_suffix(".new")
    half.write_text(body, encoding="utf-8")
    half.replace(path)


async def every(seconds: float, stop: asyncio.Event, act: Callable[[], object]) -> None:
    """Call `act` at once and then each `seconds` until `stop`; drifts rather than piling up."""
    while not stop.is_set():
        act()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
