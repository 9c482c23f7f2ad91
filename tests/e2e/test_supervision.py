"""Workers die and hang, the town's files change: what is not concerned goes on, and what is comes back at once.

Two workers and cameras with somebody walking; each test leaves the town as it found it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from ingest.simulate.camera import SimCamera
from tests.e2e.live_town import LiveTown, SimulatorThread, until

CAMERAS = [SimCamera(f"c-{n:03d}", main="tiny", sub=None, phase_s=6.0 * n) for n in range(1, 7)]
SPARE = "c-006"  # not in the file at first
KNOWN = 5  # a person enters one of them every six seconds


@pytest.fixture(scope="module")
def town(short_tmp: Path) -> Iterator[LiveTown]:
    """A town that knows all of the simulator's cameras but the spare one."""
    with SimulatorThread(CAMERAS) as simulator:
        town = LiveTown(short_tmp / "supervised", simulator, CAMERAS, environment={"GRIDWATCH_WORKERS": "2"})
        everything = town.streams.read_text(encoding="utf-8")
        town.everything = YAML(typ="safe").load(everything)  # type: ignore[attr-defined]
        edit(town, lambda document: remove(document, SPARE))
        with town:
            until(lambda: set(states(town).values()) == {"live"} and len(states(town)) == KNOWN, 20, "all cameras live")
            yield town


def edit(town: LiveTown, change: Callable[[Any], object]) -> None:
    """Change the document of streams.yaml and save it as editors do: a new file, renamed."""
    yaml = YAML()
    document = yaml.load(town.streams.read_text(encoding="utf-8"))
    change(document)
    half = town.streams.with_suffix(".swp")
    with half.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)
    half.replace(town.streams)


def remove(document: Any, camera_id: str) -> None:
    document["cameras"] = [camera for camera in document["cameras"] if camera["id"] != camera_id]


def camera_in(document: Any, camera_id: str) -> Any:
    return next(camera for camera in document["cameras"] if camera["id"] == camera_id)


def reports(town: LiveTown) -> dict[str, Any]:
    """Worker name to its report."""
    found = {}
    for path in town.run_folder.glob("worker-*.json"):
        found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return found


def streams(town: LiveTown) -> dict[str, Any]:
    """Camera id to its main stream's figures, of all workers."""
    return {one["camera_id"]: one for report in reports(town).values() for one in report["streams"]}


def states(town: LiveTown) -> dict[str, str]:
    """Camera id to state, from the API."""
    return {one["camera_id"]: one["health"]["state"] for one in town.get("cameras")["items"] if one["health"]}


def pid(town: LiveTown, name: str) -> int:
    """Of the process that wrote the worker's last report; a dead one's last word stays until the next one's first."""
    return int(reports(town)[name]["pid"])


def cameras_of(town: LiveTown, name: str) -> set[str]:
    return {one["camera_id"] for one in reports(town)[name]["streams"]}


def reload_town(town: LiveTown) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("gridwatch"))
    environment = {**os.environ, "GRIDWATCH_HOME": str(town.home), "GRIDWATCH_LANG": "en"}
    return subprocess.run([program, "reload"], env=environment, capture_output=True, text=True, timeout=60)


def test_cameras_are_spread_over_both_workers(town: LiveTown) -> None:
    assert sorted(len(cameras_of(town, name)) for name in ("worker-1", "worker-2")) == [2, 3]
    parts = {part["name"]: part["ok"] for part in town.api.get("/healthz").json()["parts"]}
    assert parts["worker-1"] and parts["worker-2"] and parts["configuration"]


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_is_back_in_seconds_and_the_other_goes_on(
    town: LiveTown, blow: signal.Signals
) -> None:
    hit, other = "worker-1", "worker-2"
    mine, theirs = cameras_of(town, hit), cameras_of(town, other)
    before, old, told = streams(town), psutil.Process(pid(town, hit)), len(town.told("opened"))
    other_pid = pid(town, other)
    struck_s = time.monotonic()
    old.send_signal(blow)
    until(lambda: not old.is_running(), 3.5, "the old worker is gone")
    gone_s = time.monotonic() - struck_s
    until(lambda: pid(town, hit) != old.pid, 10, "a new worker reports")
    until(lambda: all(streams(town)[one]["state"] == "live" for one in mine), 10, "its cameras are live again")
    live_s = time.monotonic() - struck_s
    print(f"\n{blow.name}: gone after {gone_s:.2f} s, cameras live again after {live_s:.2f} s")
    assert pid(town, other) == other_pid
    for one in theirs:
        assert streams(town)[one]["reconnects"] == before[one]["reconnects"]
        assert streams(town)[one]["frames"] > before[one]["frames"]
    until(lambda: len(town.told("opened")) > told, 15, "events go on")


def test_a_camera_is_added_changed_and_removed_and_the_others_notice_nothing(town: LiveTown) -> None:
    before = streams(town)
    kept = set(before)
    pids = {name: pid(town, name) for name in ("worker-1", "worker-2")}

    spare = camera_in(town.everything, SPARE)  # type: ignore[attr-defined]
    edit(town, lambda document: document["cameras"].append(spare))
    saved_s = time.monotonic()
    until(lambda: streams(town).get(SPARE, {}).get("state") == "live", 10, "the new camera is found without a word")
    until(lambda: states(town).get(SPARE) == "live", 5, "and in the API")
    print(f"\nadded: live {time.monotonic() - saved_s:.2f} s after the file was saved")

    def shrink_zone(document: Any) -> None:
        camera = camera_in(document, SPARE)
        camera["name"] = "Renamed"
        camera["rules"][0]["priority"] = 1

    frames = streams(town)[SPARE]["frames"]
    edit(town, shrink_zone)
    answer = reload_town(town)
    assert answer.returncode == 0, answer
    until(lambda: town.camera(SPARE)["name"] == "Renamed", 5, "the new name is in the tables")
    assert streams(town)[SPARE]["frames"] >= frames
    assert streams(town)[SPARE]["reconnects"] == 0

    edit(town, lambda document: remove(document, SPARE))
    saved_s = time.monotonic()
    answer = reload_town(town)
    assert answer.returncode == 0, answer
    print(f"reload by command: {time.monotonic() - saved_s:.2f} s with the program's start: {answer.stdout.strip()}")
    until(lambda: SPARE not in streams(town), 5, "the camera is gone")

    after = streams(town)
    assert set(after) == kept
    assert {name: pid(town, name) for name in pids} == pids
    for one in kept:
        assert after[one]["reconnects"] == before[one]["reconnects"]
        assert after[one]["since"] == before[one]["since"]
        assert after[one]["frames"] > before[one]["frames"]


def test_a_camera_moves_when_a_worker_has_too_little_and_is_live_there(town: LiveTown) -> None:
    good = town.streams.read_text(encoding="utf-8")
    few, many = sorted(("worker-1", "worker-2"), key=lambda name: len(cameras_of(town, name)))
    gone = cameras_of(town, few)
    edit(town, lambda document: [remove(document, one) for one in gone])
    answer = reload_town(town)
    assert answer.returncode == 0 and "1 moved" in answer.stdout, answer
    (moved,) = cameras_of(town, few)
    assert moved not in cameras_of(town, many) and len(cameras_of(town, many)) == 2
    until(lambda: streams(town)[moved]["state"] == "live", 10, "live at its new worker")
    town.streams.write_text(good, encoding="utf-8")
    until(lambda: set(states(town).values()) == {"live"} and len(states(town)) == KNOWN, 10, "as before")


def test_a_bad_edit_is_refused_with_a_sentence_and_changes_nothing(town: LiveTown) -> None:
    good, before = town.streams.read_text(encoding="utf-8"), streams(town)

    def spoil(document: Any) -> None:
        document["cameras"][0]["lat"] = 380.5
        document["cameras"][1]["name"] = "Never shown"

    edit(town, spoil)
    answer = reload_town(town)
    assert answer.returncode == 1
    assert "c-001" in answer.stderr and "380.5" in answer.stderr and str(town.streams) in answer.stderr
    health = town.api.get("/healthz", params={"lang": "en"})
    configuration = next(part for part in health.json()["parts"] if part["name"] == "configuration")
    assert health.status_code == 200 and not configuration["ok"]
    assert "380.5" in configuration["reason"] and "old configuration" in configuration["reason"]

    victim = pid(town, "worker-2")  # a worker that starts now must not read the bad file either
    os.kill(victim, signal.SIGKILL)
    until(lambda: pid(town, "worker-2") != victim, 15, "a new worker reports")
    until(
        lambda: {one: facts["state"] for one, facts in streams(town).items()} == dict.fromkeys(before, "live"), 10, ""
    )
    assert town.camera("c-002")["name"] != "Never shown"

    town.streams.write_text(good, encoding="utf-8")
    until(lambda: town.api.get("/healthz").json()["ok"], 5, "all is well")
    until(lambda: _configuration_ok(town), 10, "the mended file is taken by itself")


def _configuration_ok(town: LiveTown) -> bool:
    parts = town.api.get("/healthz").json()["parts"]
    return bool(next(part["ok"] for part in parts if part["name"] == "configuration"))
