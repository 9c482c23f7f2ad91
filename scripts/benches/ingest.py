"""Cameras ingested, recorded and looked at: CPU by part, frames lost, memory, beside what others take for the same.

    scripts/bench ingest --cameras 128 --seconds 60 --json out.json
    scripts/bench ingest --quick

Runs, one after the other and on the same simulated cameras: the whole product (three look cadences), its bare ingest,
the floor, the peers, and the curve over numbers of cameras. How it is measured stands in docs/design/ingest.md.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from rig.cameras import Simulator, prepare_clips, simulator
from rig.cpu import process_usage
from rig.floor import read_floor
from rig.peers import PeerKind, PeerResult, kinds, run_peer
from rig.product import Measured, product
from rig.segments import Footage, judge
from rig.table import print_table

SETTLE_S = 10.0
DRAIN_S = 2.0  # what the simulator had counted is in the recorder's hands by then
CURVE = (16, 32, 64, 128, 256)
ROWS = ("product", "quiet", "ingest", "floor", "peers", "curve")
DECODED_PEERS = ("pyav_threads", "ffmpeg_processes", "opencv")


@dataclass(frozen=True)
class Options:
    """What to run, from the command line."""

    cameras: int
    seconds: float
    peer_seconds: float
    curve: tuple[int, ...]
    curve_seconds: float
    clip_set: str
    settle_s: float
    rows: frozenset[str]
    keep: Path | None


@dataclass
class Result:
    """All figures; `as_json` has the promised keys in their order, `details` the rest."""

    options: Options
    main: Measured | None = None
    footage: Footage | None = None
    simulator_cores: float | None = None
    quiet: dict[str, float] = field(default_factory=dict)
    quiet_rows: dict[str, Measured] = field(default_factory=dict)
    floor_cores: float | None = None
    floor_bits_per_s: float | None = None
    peers: dict[str, PeerResult] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds_taken: float = 0.0

    def as_json(self) -> dict[str, Any]:
        main, footage = self.main, self.footage
        cores = _all_rounded(main.cores) if main else {}
        return {
            "cameras": self.options.cameras,
            "seconds": self.options.seconds,
            "frames_expected": footage.expected if footage else None,
            "frames_received": footage.received if footage else None,
            "frames_lost": footage.lost if footage else None,
            "segments": footage.segments if footage else 0,
            "segments_bad": len(footage.bad) if footage else 0,
            "cores": {
                "simulator": _rounded(self.simulator_cores),
                "ingest_recording": cores.get("ingest_recording"),
                "analysis": cores.get("analysis"),
                "command": cores.get("command"),
                "total": round(main.total, 4) if main else None,
            },
            "quiet_cores": {name: _rounded(self.quiet.get(name)) for name in ("sub_4s", "main_6s", "main_4s")},
            "rss_mb": round(main.rss_workers_bytes / 1e6, 1) if main else None,
            "floor_cores": _rounded(self.floor_cores),
            "peers": {
                **dict.fromkeys(DECODED_PEERS),
                **{name: result.as_json() for name, result in self.peers.items()},
            },
            "curve": self.curve,
            "details": {
                "machine": {"cores": os.cpu_count(), "processor": _processor(), "kernel": platform.release()},
                "fds": main.fds if main else None,
                "threads": main.threads if main else None,
                "parts": main.parts if main else {},
                "quiet_rows": {name: _all_rounded(row.cores) for name, row in self.quiet_rows.items()},
                "footage": asdict(footage) if footage else None,
                "floor_bits_per_s": self.floor_bits_per_s,
                "ratios": self.ratios(),
                "notes": self.notes,
                "seconds_taken": round(self.seconds_taken),
            },
        }

    def ratios(self) -> dict[str, float]:
        """How many times fewer CPU-seconds a camera, like with like: the same streams and the same duty."""
        found = {}
        own = self.peers.get("gridwatch_ingest")
        found["ingest_vs_pyav_threads"] = self._ratio("pyav_threads", own.cores_per_128 if own else None)
        recording = self.peers.get("gridwatch_recording")
        for peer in ("pyav_remux", "ffmpeg_copy"):
            found[f"recording_vs_{peer}"] = self._ratio(peer, recording.cores_per_128 if recording else None)
        whole = self.main.total * 128 / self.options.cameras if self.main else None
        found["product_vs_ffmpeg_processes"] = self._ratio("ffmpeg_processes", whole)
        return {name: round(value, 2) for name, value in found.items() if value is not None}

    def _ratio(self, peer: str, own_per_128: float | None) -> float | None:
        result = self.peers.get(peer)
        if result is None or not own_per_128 or math.isnan(result.cores):
            return None
        return result.cores_per_128 / own_per_128


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _all_rounded(cores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in cores.items()}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


class Run:
    """One run of the bench; every step reports itself, so that a long run is not a silent one."""

    def __init__(self, options: Options, folder: Path, say: Callable[[str], None]) -> None:
        self.options = options
        self.result = Result(options)
        self._folder = folder
        self._say = say
        self._number = 0

    def run(self, clips: Path) -> Result:
        """Everything that was asked for."""
        began_s = time.monotonic()
        options = self.options
        if options.rows - {"curve"}:
            with simulator(options.cameras, options.clip_set, clips) as cameras:
                if "product" in options.rows:
                    self._whole(cameras)
                if "quiet" in options.rows:
                    self._quiet(cameras)
                if "floor" in options.rows:
                    self._floor(cameras)
                for kind in kinds(os.cpu_count() or 1):
                    wanted = "ingest" if kind.name.startswith("gridwatch") else "peers"
                    if wanted in options.rows:
                        self._peer(kind, cameras)
        if "curve" in options.rows:
            for count in options.curve:
                self._curve(count, clips)
        self.result.seconds_taken = time.monotonic() - began_s
        return self.result

    def _home(self) -> Path:
        self._number += 1
        return self._folder / f"home-{self._number}"

    def _product(
        self, cameras: Simulator, *, sub: bool, look_every_s: float, seconds: float, judged: bool = False
    ) -> tuple[Measured, float, Footage | None]:
        """(what it took, the simulator's cores, the footage if asked for)."""
        home = self._home()
        before = cameras.counts()
        try:
            with product(home, cameras, sub=sub, look_every_s=look_every_s) as town:
                town.wait_live(len(cameras.cameras) * (2 if sub else 1))
                time.sleep(self.options.settle_s)
                cpu_s, began_s = process_usage(cameras.pid).cpu_s, time.monotonic()
                measured = town.measure(seconds)
                simulator_cores = (process_usage(cameras.pid).cpu_s - cpu_s) / (time.monotonic() - began_s)
                after = cameras.counts()
                time.sleep(DRAIN_S)
            footage = None
            if judged:
                self._say("judging the recordings")
                footage = judge(home / "recordings", cameras.cameras, before, after, seconds)
            return measured, simulator_cores, footage
        finally:
            if self.options.keep is None:
                shutil.rmtree(home, ignore_errors=True)

    def _whole(self, cameras: Simulator) -> None:
        options, result = self.options, self.result
        self._say(f"the whole product, {options.cameras} cameras, {options.seconds:.0f} s")
        result.main, result.simulator_cores, result.footage = self._product(
            cameras, sub=True, look_every_s=4.0, seconds=options.seconds, judged=True
        )
        result.quiet["sub_4s"] = result.main.total
        result.quiet_rows["sub_4s"] = result.main
        if not result.footage.segments:
            result.footage = None
            result.notes.append("nothing was recorded: frames are not counted")

    def _quiet(self, cameras: Simulator) -> None:
        for name, every_s in (("main_6s", 6.0), ("main_4s", 4.0)):
            self._say(f"the whole product without sub streams, a look every {every_s:.0f} s")
            measured, _, _ = self._product(cameras, sub=False, look_every_s=every_s, seconds=self.options.seconds)
            self.result.quiet[name] = measured.total
            self.result.quiet_rows[name] = measured

    def _floor(self, cameras: Simulator) -> None:
        self._say("the floor: a C program that only reads")
        floor = read_floor(cameras, len(cameras.cameras), self.options.peer_seconds, self._folder)
        if floor is None:
            self.result.notes.append("no C compiler here (cc, gcc, clang): the floor was left out")
            return
        self.result.floor_cores, self.result.floor_bits_per_s = floor.cores, floor.bits_per_s

    def _peer(self, kind: PeerKind, cameras: Simulator) -> None:
        if kind.name.startswith("ffmpeg") and shutil.which("ffmpeg") is None:
            self.result.notes.append(f"ffmpeg is not installed: {kind.name} was left out")
            return
        self._say(f"peer {kind.name}")
        peer = run_peer(kind, cameras, self.options.peer_seconds)
        self.result.peers[kind.name] = peer
        if not peer.kept_up:
            self.result.notes.append(f"{kind.name} did not keep up even with {peer.cameras} cameras")
        elif peer.cameras < len(cameras.cameras):
            self.result.notes.append(f"{kind.name} was measured with {peer.cameras} cameras; 128 are by proportion")

    def _curve(self, count: int, clips: Path) -> None:
        self._say(f"curve: {count} cameras")
        with simulator(count, self.options.clip_set, clips) as cameras:
            measured, _, _ = self._product(cameras, sub=True, look_every_s=4.0, seconds=self.options.curve_seconds)
        self.result.curve.append(
            {
                "cameras": count,
                "cores": round(measured.cores["ingest_recording"], 4),
                "total": round(measured.total, 4),
                "rss_mb": round(measured.rss_workers_bytes / 1e6, 1),
            }
        )


def _rows(only: str | None) -> frozenset[str]:
    if only is None:
        return frozenset(ROWS)
    chosen = frozenset(only.split(","))
    if unknown := chosen - frozenset(ROWS):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: one or several of {', '.join(ROWS)}")
    return chosen


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--cameras", type=click.IntRange(1, 1024), default=128, show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=60.0, show_default=True, help="each row of the product")
@click.option("--peer-seconds", type=click.FloatRange(1), help="each peer and the floor [default: at most 20]")
@click.option("--curve-seconds", type=click.FloatRange(1), help="each point of the curve [default: at most 20]")
@click.option("--only", help=f"rows, separated by commas: {', '.join(ROWS)} [default: all]")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the figures here too")
@click.option("--clips", type=click.Path(path_type=Path), help="folder of the cameras' clips")
@click.option("--folder", type=click.Path(path_type=Path), help="where recordings go [default: a temporary folder]")
@click.option("--keep", is_flag=True, help="keep homes and recordings")
@click.option("--quick", is_flag=True, help="does the bench itself work: two tiny cameras, the product only, seconds")
def main(
    cameras: int,
    seconds: float,
    peer_seconds: float | None,
    curve_seconds: float | None,
    only: str | None,
    json_path: Path | None,
    clips: Path | None,
    folder: Path | None,
    keep: bool,
    quick: bool,
) -> None:
    rows = _rows(only)
    if quick:
        cameras, seconds = min(cameras, 2), min(seconds, 2.0)
        rows = _rows(only or "product")
    with ExitStack() as stack:
        parent = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gw-bench-")))
        parent.mkdir(parents=True, exist_ok=True)
        parent.chmod(0o711)  # the embedded database drops root and must reach its folder
        options = Options(
            cameras=cameras,
            seconds=seconds,
            peer_seconds=peer_seconds or min(seconds, 20.0),
            curve=CURVE,
            curve_seconds=curve_seconds or min(seconds, 20.0),
            clip_set="tiny" if quick else "hd",
            settle_s=0.5 if quick else SETTLE_S,
            rows=rows,
            keep=parent if keep else None,
        )
        began_s = time.monotonic()

        def say(what: str) -> None:
            click.echo(f"[{time.monotonic() - began_s:4.0f} s] {what}", err=True)

        result = Run(options, parent, say).run(prepare_clips(options.clip_set, clips))
    print_table(result.as_json())
    if json_path is not None:
        json_path.write_text(json.dumps(result.as_json(), indent=2) + "\n", encoding="utf-8")
    if result.footage is not None and (result.footage.bad or result.footage.lost):
        sys.exit(1)


if __name__ == "__main__":
    main()
