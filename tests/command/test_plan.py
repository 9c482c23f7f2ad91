"""`gridwatch plan`: the arithmetic, what is used up first, and the command on the committed town."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from command.cli import gridwatch
from command.plan import Assumed, Machine, demand, in_bits, in_bytes, make_plan, network_speed_bps
from ingest.camera import Camera
from ingest.errors import sentence
from ingest.secret import SecretUrl
from ingest.streams import load_streams

ROOT = Path(__file__).parents[2]
LARGE = Machine(64, 256 * 10**9, 500 * 10**12, "/footage", 10e9, 1 << 20)


def town(count: int, *, sub: bool = True) -> list[Camera]:
    return [
        Camera(
            id=f"c-{number}",
            name="入口",
            village="东柳庄",
            lon=115.9,
            lat=38.4,
            main=SecretUrl(f"rtsp://192.0.2.1/{number}/main"),
            sub=SecretUrl(f"rtsp://192.0.2.1/{number}/sub") if sub else None,
        )
        for number in range(count)
    ]


def test_128_cameras_of_4_mbit_for_30_days_are_166_tb() -> None:
    need = demand(town(128))
    assert need.disk_bytes == pytest.approx(165.888e12)
    assert in_bytes(need.disk_bytes) == "166 TB"
    assert in_bits(need.write_bps) == "512 Mbit/s"
    assert in_bits(need.network_bps) == "576 Mbit/s"


@pytest.mark.parametrize(
    ("record", "write_bps", "recorded"), [("main", 40e6, 10), ("sub", 5e6, 10), ("both", 45e6, 20), ("none", 0, 0)]
)
def test_only_what_is_recorded_takes_disk(record: str, write_bps: float, recorded: int) -> None:
    need = demand(town(10), Assumed(record=record))  # type: ignore[arg-type]
    assert (need.write_bps, need.recorded_streams) == (write_bps, recorded)


def test_looking_by_the_main_stream_costs_more_than_by_the_sub_stream() -> None:
    assert demand(town(128, sub=False)).cores > demand(town(128)).cores
    assert demand(town(128, sub=False), Assumed(look_every_s=6)).cores < demand(town(128, sub=False)).cores


def test_a_machine_that_suffices_has_room_to_name() -> None:
    plan = make_plan(town(128), LARGE)
    assert all(one.ok for one in plan.verdicts)
    assert plan.holds_cameras is not None and plan.holds_cameras > 128
    assert plan.days_held == pytest.approx(500e12 / 165.888e12 * 30)


@pytest.mark.parametrize(
    ("machine", "resource", "remedy"),
    [
        (replace(LARGE, disk_free_bytes=10**12), "disk", "--days"),
        (replace(LARGE, cores=1), "cores", "GRIDWATCH_LOOK_EVERY_S"),
        (replace(LARGE, memory_bytes=800_000_000), "memory", "GOP"),
        (replace(LARGE, network_bps=100e6), "network", "ethtool|bit rates"),
        (replace(LARGE, open_files=1024), "open_files", "LimitNOFILE"),
    ],
)
def test_what_is_short_is_used_up_first_and_named_with_a_remedy(machine: Machine, resource: str, remedy: str) -> None:
    plan = make_plan(town(256), machine)
    short = [one for one in plan.verdicts if one.ok is False]
    assert [one.resource for one in short] == [resource]
    assert not plan.ok
    assert plan.by_scarcity[0].resource == resource
    assert any(word in short[0].sentence("en") for word in remedy.split("|"))
    assert "{" not in short[0].sentence("zh")
    # a town of just the size that the machine holds passes, one camera more does not
    holds = plan.holds_cameras
    assert holds is not None and holds < 256
    assert next(one for one in make_plan(town(holds), machine).verdicts if one.resource == resource).ok or holds == 0
    assert not next(one for one in make_plan(town(holds + 1), machine).verdicts if one.resource == resource).ok


def test_an_unknown_network_is_said_to_be_unknown() -> None:
    verdict = next(
        one for one in make_plan(town(4), replace(LARGE, network_bps=None)).verdicts if one.resource == "network"
    )
    assert verdict.ok is None and verdict.holds_cameras is None
    assert "ethtool" in verdict.sentence("en")


def test_the_fastest_card_that_is_up_counts(tmp_path: Path) -> None:
    for name, state, speed in (
        ("eth0", "up", "1000"),
        ("eth1", "down", "10000"),
        ("veth", "up", "-1"),
        ("lo", "up", ""),
    ):
        card = tmp_path / name
        card.mkdir()
        (card / "operstate").write_text(state + "\n")
        (card / "speed").write_text(speed + "\n")
    assert network_speed_bps(tmp_path) == 1e9
    assert network_speed_bps(tmp_path / "nothing") is None


def test_no_cameras_need_nothing_of_disk_and_network() -> None:
    plan = make_plan([], LARGE)
    assert plan.demand.disk_bytes == 0 and plan.days_held is None and plan.holds_cameras is None


def test_the_command_tells_the_committed_town_in_both_languages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDWATCH_HOME", str(tmp_path))
    arguments = ["plan", "--streams", str(ROOT / "streams.yaml"), "--days", "30", "--json"]
    done = CliRunner().invoke(gridwatch, arguments)
    told = json.loads(done.output)
    cameras = len(load_streams(ROOT / "streams.yaml").cameras)
    assert told["needed"]["cameras"] == cameras
    assert done.exit_code == (0 if told["ok"] else 1)
    assert {one["resource"] for one in told["resources"]} == {"disk", "cores", "memory", "network", "open_files"}
    assert {one["name"] for one in told["limits"]} == {"receive_buffer", "clock"}
    assert all(one["zh"] != one["en"] for one in (*told["resources"], *told["limits"]))
    plain = CliRunner().invoke(gridwatch, arguments[:-1])
    assert in_bytes(told["needed"]["disk_bytes"]) in plain.output
    assert sentence("plan.resource.disk", "zh") in plain.output


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    from ingest.errors import GridwatchError

    done = CliRunner().invoke(gridwatch, ["plan", "--streams", str(tmp_path / "none.yaml")])
    assert isinstance(done.exception, GridwatchError)
