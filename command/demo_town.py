"""The demo's town: the committed town's cameras, pointed at simulated ones, and its patrollers, played by devices.

The demo uses the files that a user would edit, so what it shows is what `gridwatch up` does; only the addresses of
the cameras change (a free port, a password made for this run).
"""

from __future__ import annotations

import secrets
import shutil
import socket
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from ruamel.yaml import YAML

from command.grid_match import GridIndex
from command.grids import Grids, load_grids
from command.settings import Settings
from command.supervisor import Child, python_child
from ingest.camera import Camera
from ingest.simulate.clips import Progress, default_cache_dir, ensure_clips
from ingest.simulate.recipe import DEMO_SET
from ingest.streams import load_streams

SIMULATED_USER = "demo"
DEMO_RECORDINGS_GB = 2


def free_port(host: str, wanted: int) -> int:
    """`wanted` if it can be listened on, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("port 0 can always be bound")


class DemoTown:
    """The settings, files and extra processes of one demo run."""

    def __init__(self, base: Settings, name: str, cameras: int) -> None:
        """`base.streams` and `base.grids` are the town; the run lives in `<home>/<name>` and shares the clips' cache.

        Raises:
            GridwatchError: the town's files cannot be used.
        """
        home = base.home / name
        self.settings = replace(
            base,
            home=home,
            streams=home / "streams.yaml",
            port=free_port(base.host, base.port),
            mqtt_port=free_port(base.host, base.mqtt_port),
        )
        self._rtsp_port = free_port(base.host, 8554)
        self._password = secrets.token_urlsafe(12)
        town = load_streams(base.streams).cameras
        step = max(1, len(town) // max(1, cameras))
        self.cameras: list[Camera] = sorted(town[::step][:cameras], key=lambda camera: camera.id)
        self.grids: Grids = load_grids(base.grids)
        self._source = base.streams
        self._clips = default_cache_dir()

    def clear(self) -> None:
        """Forget an earlier run."""
        for folder in (self.settings.home, self.settings.run):
            shutil.rmtree(folder, ignore_errors=True)
        self.settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write_streams(self) -> None:
        """The run's streams.yaml: the chosen cameras with the simulated cameras' addresses."""
        yaml = YAML()
        document = yaml.load(self._source.read_text(encoding="utf-8"))
        chosen = {camera.id for camera in self.cameras}
        document["cameras"] = [camera for camera in document["cameras"] if camera["id"] in chosen]
        document["recording"] = {"max_gb": DEMO_RECORDINGS_GB, "segment_s": 20}
        for camera in document["cameras"]:
            # The main streams would write 48 MB/s to a stranger's disk.
            camera["record"] = "sub" if "sub" in camera else "main"
            for stream in ("main", "sub"):
                if stream in camera:
                    path = urlsplit(camera[stream]).path
                    camera[stream] = f"rtsp://{SIMULATED_USER}:{self._password}@127.0.0.1:{self._rtsp_port}{path}"
        target = self.settings.streams
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.chmod(0o600)
        with target.open("w", encoding="utf-8") as file:
            yaml.dump(document, file)

    def simulator(self) -> Child:
        """The simulated cameras' process; it reads the cameras' passwords from the run's own streams.yaml."""
        arguments = python_child("simulator", str(self._rtsp_port), str(self._clips))
        return Child("simulator", arguments, self.settings.run / "simulator.json", self.settings.environment())

    def patrollers(self, accept_s: float, report_s: float, leave_out: str | None = None) -> Child:
        """The patrollers of the grids that have a demo camera, but for one that the user may play."""
        people = [person for person in self.patroller_ids() if person != leave_out]
        return Child(
            "patrollers",
            python_child("patrollers", str(accept_s), str(report_s), *people),
            None,
            self.settings.environment(),
        )

    def patroller_ids(self) -> list[str]:
        """Who answers first for the demo's cameras, in the cameras' order, each once."""
        return patrollers_of(self.cameras, self.grids)

    def ensure_clips(self, progress: Progress | None) -> None:
        """Encode what the cache lacks; a run never encodes."""
        ensure_clips(DEMO_SET, self._clips, progress)


def patrollers_of(cameras: Sequence[Camera], grids: Grids) -> list[str]:
    """The patrollers of the grids in which the cameras stand, in the cameras' order, each once."""
    index = GridIndex(grids)
    found: dict[str, None] = {}
    for camera in cameras:
        grid_id, _ = index.match(camera.lon, camera.lat, camera.village)
        if grid_id is not None:
            found[grids.grid(grid_id).roles.patroller.person_id] = None
    return list(found)
