"""The supervisor: starts the town's processes in order, restarts what dies or hangs, ends everything on Ctrl-C.

    database -> broker -> command -> media -> ingest workers        (and back in reverse)

Life of a child: started, ready (its heartbeat file is fresh, where it has one), then dead or hung -> killed and
started again at once, with growing waits once it has used up its restart budget. A child's end touches only its own
part: events wait in the spool, outbox rows in the database, cameras for the worker. The supervisor itself stays small
and single-threaded, since children die with its main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from command.pulse import LOOK_EVERY_S, Pulse

log = logging.getLogger(__name__)

RESTART_BUDGET = 5  # restarts a minute without a wait
RESTART_WINDOW_S = 60.0
FIRST_WAIT_S = 1.0  # once the budget is used up, doubled with each further restart
LONGEST_WAIT_S = 30.0
HUNG_AFTER_S = 15.0  # no heartbeat for so long: suspected of hanging
GRACE_S = 10.0  # from SIGTERM to SIGKILL
TRACE_S = 0.15  # for a hung child to write where it hangs
HANG_SIGNAL = signal.SIGUSR2  # a child writes every thread's place in the code to stderr


@dataclass
class Child:
    """One supervised process. `heartbeat` is a file that it rewrites every second, or None if only exit counts.

    Children of one `stage` that stand next to each other are ended together.
    """

    name: str
    arguments: Sequence[str]
    heartbeat: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    hung_after_s: float = HUNG_AFTER_S
    stage: str = ""
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    pulse: Pulse | None = None
    _recent: deque[float] = field(default_factory=deque)

    async def start(self) -> None:
        """Start the process in a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone."""
        self.process = await asyncio.create_subprocess_exec(
            *self.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **self.environment, "GRIDWATCH_SUPERVISOR_PID": str(os.getpid())},
        )
        if self.heartbeat is not None:
            self.pulse = Pulse(self.heartbeat, self.process.pid, self.hung_after_s, time.monotonic())
        log.info("started", extra={"child": self.name, "pid": self.process.pid})

    def restart_wait_s(self, now_s: float) -> float:
        """How long to wait before the next start; spends one of the budget. `now_s` is monotonic."""
        while self._recent and now_s - self._recent[0] > RESTART_WINDOW_S:
            self._recent.popleft()
        over = len(self._recent) - RESTART_BUDGET
        self._recent.append(now_s)
        return 0.0 if over < 0 else min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(over, 10))

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL to its whole session after the grace."""
        if self.process is None or self.process.returncode is not None:
            return
        began_s = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), GRACE_S)
        except TimeoutError:
            log.warning("did not end in time and is killed", extra={"child": self.name, "grace_s": GRACE_S})
            self.kill()
            await self.process.wait()
        log.info("ended", extra={"child": self.name, "took_s": round(time.monotonic() - began_s, 2)})

    async def kill_hung(self) -> None:
        """Ask where it hangs, then kill it; a stopped process cannot answer."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(HANG_SIGNAL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), TRACE_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the child's session."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Children in start order, each kept alive from `add` to `stop`."""

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
                await asyncio.wait_for(child.process.wait(), LOOK_EVERY_S)
            except TimeoutError:
                await self._listen(child)
                continue
            if self._stopping:
                return
            wait_s = child.restart_wait_s(time.monotonic())
            child.restarts += 1
            log.error(
                "ended and is started again",
                extra={"child": child.name, "exit_code": child.process.returncode, "wait_s": wait_s},
            )
            await asyncio.sleep(wait_s)
            await self._start_again(child)

    async def _listen(self, child: Child) -> None:
        if child.pulse is None:
            return
        verdict = child.pulse.look(time.monotonic())
        if verdict is not None:
            facts = {"child": child.name, "silent_s": round(child.pulse.silent_s, 1), "found": verdict}
            log.error("hangs and is killed", extra=facts)
            await child.kill_hung()

    async def _start_again(self, child: Child) -> None:
        while not self._stopping:
            try:
                await child.start()
                return
            except OSError as error:  # no memory or no process left: that may pass
                log.error("cannot be started", extra={"child": child.name, "why": str(error)})
                await asyncio.sleep(FIRST_WAIT_S)

    async def stop(self) -> None:
        """End all children, last started first; those of one stage together."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        backwards = list(enumerate(reversed(self.children)))
        for _, together in itertools.groupby(backwards, key=lambda one: one[1].stage or one[0]):
            await asyncio.gather(*(child.stop() for _, child in together))


def python_child(name: str, *arguments: str) -> list[str]:
    """The command line of one of `command.processes`."""
    return [sys.executable, "-m", f"command.processes.{name}", *arguments]
