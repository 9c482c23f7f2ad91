"""A whole town for tests: simulated cameras in a thread of the test, `gridwatch up` as a user starts it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
from ruamel.yaml import YAML

from command.dispatch.accounts import Accounts
from command.dispatch.address import MqttAddress
from command.dispatch.patrol import PatrolDevice
from command.settings import Settings
from command.store.embedded import running_conninfo
from ingest.clock import SystemClock
from ingest.simulate.camera import SimCamera
from ingest.simulate.fault import Fault, FaultKind
from ingest.simulate.town import SimulatedTown

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], within_s: float, what: str) -> Any:
    """The first true value of `condition`; fails after `within_s` seconds."""
    deadline_s = time.monotonic() + within_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


class SimulatorThread:
    """A `SimulatedTown` with an event loop of its own."""

    def __init__(self, cameras: Sequence[SimCamera]) -> None:
        self._cameras = cameras
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.town: SimulatedTown

    def __enter__(self) -> SimulatorThread:
        self._thread.start()
        self.town = SimulatedTown(self._cameras)
        self._run(self.town.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self.town.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def set_fault(self, camera: str, kind: FaultKind) -> None:
        """Begin a fault now."""
        self._loop.call_soon_threadsafe(self.town.set_fault, camera, Fault(kind=kind))

    def clear(self, camera: str) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self.town.clear, camera)


class LiveTown:
    """`gridwatch up` on a home of its own. The cameras are the first ones of the committed town."""

    def __init__(
        self,
        home: Path,
        simulator: SimulatorThread,
        cameras: Sequence[SimCamera],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.run_folder = Settings(home=home).run
        self._environment = environment or {}
        self.port, self.mqtt_port = free_port(), free_port()
        self.log = home.with_name(home.name + ".log")
        self._files(simulator, cameras)
        self.process: subprocess.Popen[bytes] | None = None
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10)

    def _files(self, simulator: SimulatorThread, cameras: Sequence[SimCamera]) -> None:
        yaml = YAML()
        document = yaml.load((ROOT / "streams.yaml").read_text(encoding="utf-8"))
        document["cameras"] = document["cameras"][: len(cameras)]
        for camera, simulated in zip(document["cameras"], cameras, strict=True):
            assert camera["id"] == simulated.id
            camera["main"] = simulator.town.url(simulated.id, "main")
            camera.pop("sub", None)
            for rule in camera["rules"]:
                rule["cooldown_s"] = 0
        self.streams = self.home.with_name(self.home.name + ".yaml")
        with self.streams.open("w", encoding="utf-8") as file:
            yaml.dump(document, file)

    @property
    def url(self) -> str:
        """The page."""
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> LiveTown:
        environment = {
            **os.environ,
            "GRIDWATCH_HOME": str(self.home),
            "GRIDWATCH_STREAMS": str(self.streams),
            "GRIDWATCH_GRIDS": str(ROOT / "grids.geojson"),
            "GRIDWATCH_PORT": str(self.port),
            "GRIDWATCH_MQTT_PORT": str(self.mqtt_port),
            **self._environment,
        }
        with self.log.open("wb") as log:
            command = [str(Path(sys.executable).with_name("gridwatch")), "up"]
            self.process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert self.url.encode() in line, (line, self.log.read_text()[-3000:])
        return self

    def __exit__(self, *_: object) -> None:
        self.api.close()
        self.stop()

    def stop(self) -> int:
        """Ctrl-C, and wait for the end. The exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(40)

    # ---- what the outside sees

    def get(self, path: str, **params: Any) -> Any:
        """JSON of the API."""
        answer = self.api.get(f"/api/v1/{path}", params=params)
        answer.raise_for_status()
        return answer.json()

    def camera(self, camera_id: str) -> Any:
        """One camera as the API tells it."""
        return self.get(f"cameras/{camera_id}")

    def told(self, state: str) -> list[str]:
        """Event ids that the worker says it has put on disk in this state."""
        found = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            if '"event": "event"' in line:
                said = json.loads(line)
                if said["state"] == state:
                    found.append(said["id"])
        return found

    def conninfo(self) -> str | None:
        """Of the embedded server, while it lives."""
        return running_conninfo(self.home)

    def descendants(self) -> list[psutil.Process]:
        """Every process that the town has started."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self, words: str) -> int:
        """SIGKILL to the process whose command line contains `words`; how many there were."""
        found = [one for one in self.descendants() if words in " ".join(_cmdline(one))]
        for one in found:
            one.kill()
        return len(found)

    def device(self, person_id: str, **options: Any) -> PatrolDevice:
        """A patroller's device with the person's own account."""
        password = Accounts(self.home / "secrets").password(person_id)
        address = MqttAddress("127.0.0.1", self.mqtt_port, person_id, password)
        return PatrolDevice(address, person_id, SystemClock(), **options)


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
