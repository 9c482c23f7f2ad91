"""Whether a silent child hangs or only starves: the supervisor's ear at its chest.

A child rewrites its heartbeat file from its event loop at least once a second. A `Pulse` is made at each start of the
child and asked several times a second. Silence alone proves nothing on a machine with too much to do, and killing a
starved child makes it starve more; so a silent child's main thread is looked at (proc_pid_stat(5), schedstat, io):

| main thread since the last beat                          | verdict                                       |
|----------------------------------------------------------|-----------------------------------------------|
| stopped                                                  | hangs                                         |
| asleep and not once scheduled for a second               | hangs: blocked in a call or on a lock         |
| has run for `BUSY_S` of CPU time without a read or write | hangs: an endless loop                        |
| else: waits for a core, the disk or Python's lock, or    | starves: hangs only after `STARVED_AFTER_S`   |
| works off what has piled up in its sockets               |                                               |

Time in which the supervisor itself did not run (a paused virtual machine, a suspended laptop) does not count.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LOOK_EVERY_S = 0.25
STARVED_AFTER_S = 15.0
FIRST_BEAT_S = 30.0  # importing and opening takes its time on a loaded machine
BUSY_S = 2.0  # CPU time: hundreds of times what lies between two reads of a worker that has too much to do
STILL_S = 1.0

Verdict = Literal["stopped", "blocked", "busy", "starved", "never_began"]


@dataclass(frozen=True)
class _Thread:
    state: str  # proc_pid_stat(5): R, S, D, T, …
    ran_s: float  # on a core, altogether
    slices: int | None  # how often it was put on one; None: this kernel does not tell
    calls: int | None  # reads and writes so far; None: this kernel does not tell


class Pulse:
    """One child's life from start to end. `hung_after_s` of silence make it suspect."""

    def __init__(
        self, heartbeat: Path, pid: int, hung_after_s: float, now_s: float, proc: Path = Path("/proc")
    ) -> None:
        self._heartbeat = heartbeat
        self._hung_after_s = hung_after_s
        self._task = proc / str(pid) / "task" / str(pid)
        self._mark = self._beat()  # a dead predecessor's last word stays readable until the first beat
        self._has_beaten = False
        self._looked_s = now_s
        self._moved: _Thread | None = None  # when it last read or wrote something, or beat
        self._before: _Thread | None = None
        self._still_s = 0.0
        self.silent_s = 0.0

    def look(self, now_s: float) -> Verdict | None:
        """Why the child must be killed, or None. `now_s` is monotonic; to be called each `LOOK_EVERY_S`."""
        elapsed_s = min(max(0.0, now_s - self._looked_s), 2 * LOOK_EVERY_S)
        self._looked_s = now_s
        mark = self._beat()
        if mark != self._mark:
            self._mark, self._has_beaten = mark, True
            self.silent_s = self._still_s = 0.0
            self._moved, self._before = self._thread(), None
            return None
        self.silent_s += elapsed_s
        if not self._has_beaten:
            return "never_began" if self.silent_s > FIRST_BEAT_S else None
        thread = self._thread()
        if thread is None:
            return None  # it has ended; the supervisor knows before long
        before, self._before = self._before, thread
        if self._moved is None or (thread.calls is not None and thread.calls != self._moved.calls):
            self._moved = thread
        is_still = before is not None and thread.slices is not None and before.slices == thread.slices
        self._still_s = self._still_s + elapsed_s if is_still else 0.0
        return self._verdict(thread, self._moved) if self.silent_s > self._hung_after_s else None

    def _verdict(self, thread: _Thread, moved: _Thread) -> Verdict | None:
        if thread.state == "T":
            return "stopped"
        if thread.state == "S" and self._still_s >= STILL_S:
            return "blocked"
        if thread.calls is not None and thread.ran_s - moved.ran_s > BUSY_S:
            return "busy"
        return "starved" if self.silent_s > STARVED_AFTER_S else None

    def _beat(self) -> tuple[int, int] | None:
        """Changes with every beat, whatever the clock does; None while there is no file."""
        try:
            status = self._heartbeat.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _thread(self) -> _Thread | None:
        try:
            fields = (self._task / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            ran_s, slices = (int(fields[11]) + int(fields[12])) / 100, None  # user and system, in ticks
        except (OSError, IndexError, ValueError):
            return None
        calls = None
        with contextlib.suppress(OSError, ValueError):
            ran_ns, _, switches = (self._task / "schedstat").read_text(encoding="ascii").split()
            ran_s, slices = int(ran_ns) / 1e9, int(switches)
        with contextlib.suppress(OSError, ValueError, IndexError):
            counts = (self._task / "io").read_text(encoding="ascii").split()
            calls = int(counts[5]) + int(counts[7])  # syscr, syscw
        return _Thread(fields[0], ran_s, slices, calls)
