"""CPU, memory, files and threads of process trees, from /proc.

A snapshot adds what a process has used to what its ended children have used (utime, stime, cutime, cstime of
proc_pid_stat(5)), so that short-lived processes (database backends, ffmpeg) are counted too: over a tree whose members
reap their own children the sum only grows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True)
class Usage:
    """What a set of processes has used (`cpu_s`, cumulative) and holds now."""

    cpu_s: float = 0.0
    rss_bytes: int = 0
    fds: int = 0
    threads: int = 0
    processes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.cpu_s + other.cpu_s,
            self.rss_bytes + other.rss_bytes,
            self.fds + other.fds,
            self.threads + other.threads,
            self.processes + other.processes,
        )


def _stat(path: Path) -> list[str]:
    """The fields of a `stat` file from `state` on (the name before it may hold anything)."""
    return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def process_usage(pid: int) -> Usage:
    """One process with its ended children; nothing when it is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        fields = _stat(folder / "stat")
        fds = sum(1 for _ in (folder / "fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return Usage()
    cpu_s = sum(int(ticks) for ticks in fields[11:15]) / TICKS
    return Usage(cpu_s, int(fields[21]) * PAGE, fds, int(fields[17]), 1)


def thread_cpu_s(pid: int) -> dict[int, float]:
    """CPU seconds of each living thread of a process."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            fields = _stat(task / "stat")
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(task.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    return found


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tree_usage(pid: int, *, root_too: bool = True) -> Usage:
    """The whole tree below `pid`. Without `root_too` what the root itself has used is left out."""
    processes = tree(pid)
    total = Usage()
    for process in processes if root_too else processes[1:]:
        total += process_usage(process.pid)
    return total


def product_parts(supervisor_pid: int) -> dict[str, list[int]]:
    """The product's processes by part: supervisor, worker, api, broker, media, postgres."""
    parts: dict[str, list[int]] = {}
    for process in tree(supervisor_pid):
        parts.setdefault(_part(process, supervisor_pid), []).append(process.pid)
    return parts


def _part(process: psutil.Process, supervisor_pid: int) -> str:
    if process.pid == supervisor_pid:
        return "supervisor"
    try:
        arguments = process.cmdline()
        if not arguments or "postgres" in arguments[0]:
            return "postgres"
    except psutil.NoSuchProcess:
        return "ended"
    prefix = "command.processes."
    return next((one.removeprefix(prefix) for one in arguments if one.startswith(prefix)), "other")


@dataclass(frozen=True)
class Snapshot:
    """A moment: cumulative CPU by part, and by thread of the workers."""

    at_s: float
    parts: Mapping[str, Usage]
    worker_threads: Mapping[tuple[int, int], float]

    @classmethod
    def take(cls, supervisor_pid: int) -> Snapshot:
        """Look at the product now."""
        pids = product_parts(supervisor_pid)
        parts = {name: sum((process_usage(pid) for pid in some), Usage()) for name, some in pids.items()}
        threads = {(pid, tid): cpu_s for pid in pids.get("worker", []) for tid, cpu_s in thread_cpu_s(pid).items()}
        return cls(time.monotonic(), parts, threads)
