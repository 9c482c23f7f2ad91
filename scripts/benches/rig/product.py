"""The product as a user runs it: `gridwatch up` on the bench's cameras, watched from outside.

CPU by part comes from the processes, within a worker from its threads: those named `look-…` are analysis, every other
one (event loop, recorder, what ended in between) is ingest and recording.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command.settings import Settings
from rig.cameras import ROOT, Simulator, child, write_town
from rig.cpu import Snapshot, Usage

LIVE_WITHIN_S = 90.0
ANALYSIS_THREADS = ("look-",)
LOG_TAIL_LINES = 15


class ProductFailedError(Exception):
    """The product did not come up, or a camera did not."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Measured:
    """One measured stretch of the product."""

    seconds: float
    cores: dict[str, float]  # ingest_recording, analysis, command
    parts: dict[str, dict[str, float]]
    rss_workers_bytes: int
    fds: int
    threads: int

    @property
    def total(self) -> float:
        """All parts; the simulated cameras are none of them."""
        return sum(self.cores.values())


class Product:
    """A running town."""

    def __init__(self, process: subprocess.Popen[str], home: Path, log: Path) -> None:
        self.pid = process.pid
        self.home = home
        self._process = process
        self._log = log

    def reports(self) -> list[dict[str, Any]]:
        """What the workers say of themselves."""
        found = []
        for path in sorted(Settings(home=self.home).run.glob("worker-*.json")):
            try:
                found.append(json.loads(path.read_text(encoding="utf-8")))
            except FileNotFoundError:
                continue
        return found

    def wait_live(self, streams: int) -> None:
        """Return when every stream is live.

        Raises:
            ProductFailedError: one is not in time, or the product has ended.
        """
        deadline_s = time.monotonic() + LIVE_WITHIN_S
        live = 0
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                raise ProductFailedError(f"gridwatch up ended with {self._process.returncode}:\n{self._tail()}")
            live = sum(one["state"] == "live" for report in self.reports() for one in report["streams"])
            if live == streams:
                return
            time.sleep(0.25)
        raise ProductFailedError(f"{live} of {streams} streams live after {LIVE_WITHIN_S:.0f} s:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def _thread_names(self) -> dict[tuple[int, int], str]:
        return {
            (report["pid"], native): name
            for report in self.reports()
            for name, native in report["analysis"].get("threads", {}).items()
        }

    def measure(self, seconds: float) -> Measured:
        """Let it run for `seconds`; what it used."""
        names = self._thread_names()
        before = Snapshot.take(self.pid)
        time.sleep(seconds)
        after = Snapshot.take(self.pid)
        names |= self._thread_names()
        wall_s = after.at_s - before.at_s
        used = {
            name: (usage.cpu_s - before.parts.get(name, Usage()).cpu_s) / wall_s for name, usage in after.parts.items()
        }
        analysis = sum(
            (cpu_s - before.worker_threads.get(thread, 0.0)) / wall_s
            for thread, cpu_s in after.worker_threads.items()
            if names.get(thread, "").startswith(ANALYSIS_THREADS)
        )
        worker = used.get("worker", 0.0)
        whole = sum(after.parts.values(), Usage())
        return Measured(
            seconds=wall_s,
            cores={
                "ingest_recording": worker - analysis,
                "analysis": analysis,
                "command": sum(used.values()) - worker,
            },
            parts={
                name: {
                    "cores": round(used[name], 4),
                    "rss_mb": round(usage.rss_bytes / 1e6, 1),
                    "fds": usage.fds,
                    "threads": usage.threads,
                    "processes": usage.processes,
                }
                for name, usage in after.parts.items()
            },
            rss_workers_bytes=after.parts.get("worker", Usage()).rss_bytes,
            fds=whole.fds,
            threads=whole.threads,
        )


@contextmanager
def product(home: Path, cameras: Simulator, *, sub: bool, look_every_s: float) -> Iterator[Product]:
    """Run the product on all cameras; it has ended, cleanly, when the block is left."""
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        "GRIDWATCH_HOME": str(home),
        "GRIDWATCH_STREAMS": str(write_town(home, cameras, sub=sub)),
        "GRIDWATCH_GRIDS": str(ROOT / "grids.geojson"),
        "GRIDWATCH_PORT": str(free_port()),
        "GRIDWATCH_MQTT_PORT": str(free_port()),
        "GRIDWATCH_LANG": "en",
        "GRIDWATCH_LOOK_EVERY_S": f"{look_every_s:g}",
        "GRIDWATCH_DATABASE_URL": os.environ.get("GRIDWATCH_DATABASE_URL", ""),
    }
    log = home / "bench.log"
    with log.open("w") as out:
        arguments = [sys.executable, "-c", "from command.cli import main; main()", "up"]
        with child(arguments, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL) as process:
            yield Product(process, home, log)
