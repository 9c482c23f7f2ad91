"""The peers of a run: how many cameras each can hold on this machine, and what it takes for them.

A peer that does not keep up (it gets less than 97 % of what was sent, or the simulator had to drop frames for it) is
tried again in twice the processes where it can be split, then with half the cameras. What it takes is counted for those
that it held, and for 128 by proportion, which flatters it: nothing saturates in a proportion.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rig.cameras import Simulator, child
from rig.cpu import tree_usage

READY_WITHIN_S = 90.0
ANSWER_S = 20.0
SETTLE_S = 3.0
KEEPS_UP = 0.97
LARGE = 128
_FILE_BUFFER_BYTES = 1 << 16


@dataclass(frozen=True)
class PeerKind:
    """`largest`: cameras to begin with at most. `a_process`: cameras in one process to begin with."""

    name: str
    largest: int
    a_process: int | None = None  # None: one process, which may be split no further


@dataclass(frozen=True)
class PeerResult:
    """What one peer held and took."""

    cameras: int
    processes: int
    cores: float
    kept_up: bool
    share_received: float
    rss_bytes: int

    @property
    def cores_per_128(self) -> float:
        """By proportion."""
        return self.cores / self.cameras * LARGE

    def as_json(self) -> dict[str, Any]:
        """The keys that the bench promises, and how it was held."""
        return {
            "cameras": self.cameras,
            "cores_per_128": round(self.cores_per_128, 3),
            "cores": round(self.cores, 3),
            "processes": self.processes,
            "kept_up": self.kept_up,
            "share_received": round(self.share_received, 4),
            "rss_mb": round(self.rss_bytes / 1e6),
        }


def kinds(cores: int) -> list[PeerKind]:
    """The peers for a machine of so many cores. Decoders are begun at what a machine can hold: 0.14 core a camera."""
    decoding = max(1, 4 * cores)
    return [
        PeerKind("gridwatch_ingest", 1 << 20),
        PeerKind("gridwatch_recording", 1 << 20),
        PeerKind("pyav_threads", 1 << 20, 64),
        PeerKind("pyav_remux", 1 << 20, 64),
        PeerKind("ffmpeg_copy", LARGE),
        PeerKind("ffmpeg_processes", decoding),
        PeerKind("opencv", decoding),
    ]


class _Running:
    """A peer process with its end of the conversation."""

    def __init__(self, process: subprocess.Popen[str], urls: Sequence[str]) -> None:
        assert process.stdin is not None
        self.process = process
        process.stdin.write("".join(f"{url}\n" for url in urls) + "\n")
        process.stdin.flush()

    def hear(self, within_s: float) -> dict[str, Any]:
        """Its next line; a peer that says nothing in time has failed."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], max(0.0, within_s))[0]:
            return {"ready": False, "units": 0, "failures": 1, "failed": ["silent"]}
        line = self.process.stdout.readline()
        if not line:
            return {"ready": False, "units": 0, "failures": 1, "failed": ["ended"]}
        said: dict[str, Any] = json.loads(line)
        return said

    def ask(self) -> dict[str, Any]:
        """Its counters now."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("count\n")
            self.process.stdin.flush()
        return self.hear(ANSWER_S)


def _expected_units(kind: str, cameras: Simulator, count: int, frames: int, sent_bytes: int) -> float:
    """What a peer that keeps up has counted for the frames sent."""
    if kind == "ffmpeg_processes":
        main = cameras.kind.main  # two pictures of each camera may be half way
        pictures = max(1.0, frames * min(1.0, 5 / cameras.kind.fps) - 2 * count)
        return pictures * main.width * main.height * 3 / 2
    if kind == "ffmpeg_copy":  # a GOP and a buffer of each camera are still on their way to the file
        main = cameras.kind.main
        return max(1.0, sent_bytes - count * (main.bitrate_bps / 8 * main.gop_s + _FILE_BUFFER_BYTES))
    return frames


def _run_once(kind: PeerKind, cameras: Simulator, count: int, processes: int, seconds: float) -> PeerResult:
    folder = Path(tempfile.mkdtemp(prefix="gw-peer-"))
    urls = [cameras.url(camera) for camera in cameras.cameras[:count]]
    options = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "env": {"OPENCV_FFMPEG_CAPTURE_OPTIONS": "rtsp_transport;tcp|threads;1", "OPENCV_LOG_LEVEL": "ERROR"},
    }
    arguments = [sys.executable, "-m", "rig.peer", kind.name, str(folder)]
    only_children = kind.name.startswith("ffmpeg")
    failed = PeerResult(count, processes, float("nan"), False, 0.0, 0)
    try:
        with contextlib.ExitStack() as stack:
            running = [
                _Running(stack.enter_context(child(arguments, **options)), urls[number::processes])
                for number in range(processes)
            ]
            deadline_s = time.monotonic() + READY_WITHIN_S
            if not all(one.hear(deadline_s - time.monotonic()).get("ready") for one in running):
                return failed
            time.sleep(SETTLE_S)
            sent, units = cameras.counts(), sum(one.ask()["units"] for one in running)
            used = [tree_usage(one.process.pid, root_too=not only_children) for one in running]
            began_s = time.monotonic()
            time.sleep(seconds)
            sent_after, answers = cameras.counts(), [one.ask() for one in running]
            wall_s = time.monotonic() - began_s
            used_after = [tree_usage(one.process.pid, root_too=not only_children) for one in running]
            cpu_s = sum(b.cpu_s - a.cpu_s for a, b in zip(used, used_after, strict=True))
            expected = _expected_units(
                kind.name, cameras, count, sent_after.total - sent.total, sent_after.bytes_sent - sent.bytes_sent
            )
            nominal = count * cameras.kind.fps * wall_s
            share = (sum(answer["units"] for answer in answers) - units) / expected if expected else 0.0
            share = min(1.0, share, (sent_after.total - sent.total) / nominal)
            healthy = not any(answer["failures"] for answer in answers) and sent_after.dropped == sent.dropped
            return PeerResult(
                count,
                processes,
                cpu_s / wall_s,
                healthy and share >= KEEPS_UP,
                share,
                sum(u.rss_bytes for u in used_after),
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_peer(kind: PeerKind, cameras: Simulator, seconds: float, tries: int = 4) -> PeerResult:
    """Measure one peer with as many of the simulated cameras as it can hold."""
    count = min(len(cameras.cameras), kind.largest)
    a_process = kind.a_process or count
    result = None
    for _ in range(tries):
        processes = -(-count // a_process)
        result = _run_once(kind, cameras, count, processes, seconds)
        if result.kept_up or count == 1:
            return result
        if kind.a_process is not None and processes < 2 * (os.cpu_count() or 1):
            a_process = max(1, a_process // 2)
        else:
            count = max(1, count // 2)
            a_process = a_process if kind.a_process else count
    assert result is not None
    return replace(result, kept_up=False)
