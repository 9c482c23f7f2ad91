"""The bench's cameras: which scenes they see, their simulator process with its counters, and a town of them on disk.

Of sixteen cameras two see a walker, one a busy street, one drawn cars, and twelve nobody; every loop starts at a phase
of its own. Each stream is encoded once at set-up and kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from ingest.simulate.clips import ensure_clips
from ingest.simulate.recipe import BENCH_SET, MAIN, SUB, TEST_SET, TINY, TINY_SUB, Profile, Recipe
from ingest.simulate.scenes import SceneName

ROOT = Path(__file__).resolve().parents[3]
BENCHES = Path(__file__).resolve().parents[1]
READY_WITHIN_S = 60.0
CALL_S = 10.0
_ROUND: tuple[SceneName, ...] = (
    *("walker", "quiet", "quiet", "quiet", "street", "quiet", "quiet", "quiet"),
    *("walker", "quiet", "quiet", "quiet", "drawn", "quiet", "quiet", "quiet"),
)
SCENES = frozenset(_ROUND)


@dataclass(frozen=True)
class CameraSet:
    """The clips that a bench plays."""

    main: Profile
    sub: Profile
    recipes: tuple[Recipe, ...]

    @property
    def fps(self) -> float:
        """Frames a second of the main stream."""
        return float(self.main.fps)


def _camera_set(main: Profile, sub: Profile, of: Sequence[Recipe]) -> CameraSet:
    wanted = tuple(recipe for recipe in of if recipe.profile in (main, sub) and recipe.scene in SCENES)
    return CameraSet(main, sub, wanted)


CAMERA_SETS = {"hd": _camera_set(MAIN, SUB, BENCH_SET), "tiny": _camera_set(TINY, TINY_SUB, TEST_SET)}


def scene_of(index: int) -> SceneName:
    """What camera `index` sees."""
    return _ROUND[index % len(_ROUND)]


def camera_ids(count: int) -> list[str]:
    """The ids of the bench's cameras."""
    return [f"cam-{number:03d}" for number in range(1, count + 1)]


def prepare_clips(set_name: str, cache: Path | None) -> Path:
    """Encode what the cache lacks, with a bar; the folder."""
    kind = CAMERA_SETS[set_name]
    shown = 0
    with click.progressbar(length=1000, label="encoding the cameras' clips (once)", file=sys.stderr) as bar:

        def advance(done: float, whole: float) -> None:
            nonlocal shown
            thousandths = int(1000 * done / whole)
            bar.update(thousandths - shown)
            shown = thousandths

        return ensure_clips(kind.recipes, cache, advance).folder


@dataclass(frozen=True)
class Counts:
    """What the simulator says it has sent, by camera, of one stream."""

    frames: dict[str, int]
    last_number: dict[str, int]
    bytes_sent: int
    packets: int
    dropped: int  # frames that a client was too slow for

    @property
    def total(self) -> int:
        """Frames of all cameras."""
        return sum(self.frames.values())


class Simulator:
    """A running simulator process."""

    def __init__(self, process: subprocess.Popen[str], count: int, set_name: str) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the simulated cameras did not start; their error stands above")
        said = json.loads(line)
        self.pid = process.pid
        self.port = int(said["port"])
        self.control = str(said["control"])
        self.kind = CAMERA_SETS[set_name]
        self.cameras = camera_ids(count)

    def url(self, camera: str, stream: str = "main") -> str:
        """A camera's address."""
        return f"rtsp://127.0.0.1:{self.port}/{camera}/{stream}"

    def _list(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.control}/cameras", timeout=CALL_S) as answer:  # noqa: S310 - own address
            found: list[dict[str, Any]] = json.load(answer)
        return found

    def playing(self) -> int:
        """Sessions that play now, over all cameras and streams."""
        return sum(camera["playing"] for camera in self._list())

    def counts(self, stream: str = "main") -> Counts:
        """The counters of a stream of every camera."""
        streams = {camera["id"]: camera["streams"][stream] for camera in self._list()}
        return Counts(
            {name: one["frames_sent"] for name, one in streams.items()},
            {name: one["last_number"] for name, one in streams.items()},
            sum(one["bytes_sent"] for one in streams.values()),
            sum(one["packets_sent"] for one in streams.values()),
            sum(one["frames_dropped"] for one in streams.values()),
        )


@contextmanager
def simulator(count: int, set_name: str, clips: Path) -> Iterator[Simulator]:
    """Start the simulated cameras; they end with the block."""
    arguments = [sys.executable, "-m", "rig.simulator", str(count), set_name, str(clips)]
    with child(arguments, stdout=subprocess.PIPE) as process:
        yield Simulator(process, count, set_name)


@contextmanager
def child(arguments: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that finds the rig and ends with the block, and with the bench."""
    paths = [str(ROOT), str(BENCHES), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        **options.pop("env", {}),
        "PYTHONPATH": os.pathsep.join(paths),
        "GRIDWATCH_SUPERVISOR_PID": str(os.getpid()),
    }
    process = subprocess.Popen(arguments, text=True, env=environment, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_town(folder: Path, cameras: Simulator, *, sub: bool) -> Path:
    """A streams.yaml with the bench's cameras, standing where the committed town's stand, with its zones and rules."""
    yaml = YAML(typ="safe")
    town = yaml.load((ROOT / "streams.yaml").read_text(encoding="utf-8"))
    models = town["cameras"]
    made = []
    for index, camera in enumerate(cameras.cameras):
        one = {**models[index % len(models)], "id": camera, "main": cameras.url(camera), "transport": "tcp"}
        one.pop("sub", None)
        if sub:
            one["sub"] = cameras.url(camera, "sub")
        made.append(one)
    target = folder / "streams.yaml"
    with target.open("w", encoding="utf-8") as file:
        yaml.dump({**town, "cameras": made}, file)
    return target
