"""The supervisor: starts the town's processes in order, restarts what dies or hangs, ends everything on Ctrl-C.

    database -> broker -> command -> media -> ingest workers        (and back in reverse)

Life of a child: started, ready (its heartbeat file is fresh, where it has one), then dead or hung -> killed and
started again, with a growing wait once it has used up its restart budget. A child's end touches only its own part:
events wait in the spool, outbox rows in the database, cameras for the worker. The supervisor itself stays small and
single-threaded, since children die with its main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

RESTART_BUDGET = 5  # restarts a minute without a wait
RESTART_WINDOW_S = 60.0
RESTART_WAIT_S = 10.0  # once the budget is used up
HUNG_AFTER_S = 15.0  # no heartbeat for so long: killed
GRACE_S = 10.0  # from SIGTERM to SIGKILL


@dataclass
class Child:
    """One supervised process. `heartbeat` is a file that it rewrites every second, or None if only exit counts."""

    name: str
    arguments: Sequence[str]
    heartbeat: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RESTART_BUDGET))
    _started_s: float = 0.0

    async def start(self) -> None:
        """Start the process in a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone."""
        if self.heartbeat is not None:
            self.heartbeat.unlink(missing_ok=True)
        self.process = await asyncio.create_subprocess_exec(
            *self.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **self.environment, "GRIDWATCH_SUPERVISOR_PID": str(os.getpid())},
        )
        self._started_s = time.monotonic()
        log.info("started", extra={"child": self.name, "pid": self.process.pid})

    def silent_s(self) -> float:
        """Seconds since the last heartbeat, or since the start when there was none yet; 0 without a heartbeat file."""
        if self.heartbeat is None:
            return 0.0
        try:
            return max(0.0, time.time() - self.heartbeat.stat().st_mtime)
        except FileNotFoundError:
            # importing and opening takes its time on a loaded machine: the first beat gets twice the patience
            return max(0.0, time.monotonic() - self._started_s - HUNG_AFTER_S)

    def restart_wait_s(self) -> float:
        """How long to wait before the next start; spends one of the budget."""
        now_s = time.monotonic()
        spent = len(self._recent) == self._recent.maxlen and now_s - self._recent[0] < RESTART_WINDOW_S
        self._recent.append(now_s)
        return RESTART_WAIT_S if spent else 0.0

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL to its whole session after the grace."""
        if self.process is None or self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), GRACE_S)
        except TimeoutError:
            log.warning("did not end in time and is killed", extra={"child": self.name, "grace_s": GRACE_S})
            self.kill()
            await self.process.wait()

    def kill(self) -> None:
        """SIGKILL to the child's session."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Children in start order. `run` returns when `stop` is set and everything has ended."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def add(self, child: Child) -> None:
        """Start a child and keep it alive from now on."""
        self.children.append(child)
        await child.start()
        self._tasks.append(asyncio.create_task(self._keep(child), name=f"keep-{child.name}"))

    async def _keep(self, child: Child) -> None:
        while not self._stopping:
            assert child.process is not None
            try:
                await asyncio.wait_for(child.process.wait(), 1.0)
            except TimeoutError:
                if child.silent_s() > HUNG_AFTER_S:
                    log.error(
                        "hangs and is killed", extra={"child": child.name, "silent_s": round(child.silent_s(), 1)}
                    )
                    child.kill()
                continue
            if self._stopping:
                return
            wait_s = child.restart_wait_s()
            child.restarts += 1
            log.error(
                "ended and is started again",
                extra={"child": child.name, "exit_code": child.process.returncode, "wait_s": wait_s},
            )
            await asyncio.sleep(wait_s)
            if not self._stopping:
                await child.start()

    async def stop(self) -> None:
        """End all children, last started first."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for child in reversed(self.children):
            await child.stop()


def python_child(name: str, *arguments: str) -> list[str]:
    """The command line of one of `command.processes`."""
    return [sys.executable, "-m", f"command.processes.{name}", *arguments]
