"""`gridwatch check --live` against simulated cameras: what is measured, what is named, and that nothing else is."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import click.testing
import pytest

from command.check_live import AT_ONCE, Measured, Window, check_live
from command.cli.check import command
from ingest.camera import Camera
from ingest.secret import SecretUrl
from ingest.simulate import Fault, FaultKind, SimCamera, SimulatedTown, Variant
from ingest.source_lines import Problem

QUICK = Window(least_s=1.6, most_s=5.5)


def camera(town: SimulatedTown, name: str, *, sub: str | None = "sub", **how: object) -> Camera:
    given = {"id": name, "name": name, "village": "东庄", "lon": 115.9, "lat": 38.4, "main": SecretUrl(town.url(name))}
    if sub is not None:
        given["sub"] = SecretUrl(town.url(name, "sub"))
    return Camera.model_validate({**given, **how})


async def check(cameras: list[Camera], **how: object) -> tuple[dict[str, Measured], dict[str, set[str]]]:
    how.setdefault("window", QUICK)
    measured, problems = await check_live(cameras, file="streams.yaml", line=lambda camera_id: 7, **how)  # type: ignore[arg-type]
    named: dict[str, set[str]] = {}
    for problem in problems:
        assert problem.subject is not None and problem.line == 7
        named.setdefault(problem.subject[1], set()).add(problem.code)
        _readable(problem)
    return {f"{one.camera}/{one.stream}": one for one in measured}, named


def _readable(problem: Problem) -> None:
    assert problem.subject is not None
    for lang, camera in (("zh", "摄像头 "), ("en", "amera ")):
        text = problem.sentence(lang)
        assert "{" not in text and "s3cret" not in text and text.count(camera + problem.subject[1]) == 1, text


async def test_settings_are_measured_and_those_that_hurt_are_named() -> None:
    cameras = [
        SimCamera("good", user="u", password="s3cret"),
        SimCamera("long", variant=Variant(gop_s=10)),
        SimCamera("b-frames", variant=Variant(b_frames=True)),
        SimCamera("hevc", variant=Variant(codec="hevc", parameter_sets="sdp")),
        SimCamera("late", clock_offset_s=-7200),
        SimCamera("single", variant=Variant(parameter_sets="inband")),
        SimCamera("slow", variant=Variant(rate="1fps")),
        SimCamera("lossy", fault=Fault(kind=FaultKind.LOSS, percent=8)),
    ]
    async with SimulatedTown(cameras) as town:
        watched = [camera(town, one.id) for one in cameras if one.id != "single"]
        watched.append(camera(town, "single", sub=None))
        watched.append(camera(town, "good", id="over-udp", transport="udp"))
        watched.append(camera(town, "good", id="over-libav", transport="libav"))
        seen, named = await check(watched)
        assert all(town.playing(one.id) == 0 for one in cameras)

    good = seen["good/main"]
    assert (good.codec, good.width, good.height, good.transport, good.parameter_sets) == (
        "h264",
        320,
        180,
        "tcp",
        "both",
    )
    assert good.fps == pytest.approx(25, abs=0.5) and good.gop_s == pytest.approx(1.0, abs=0.05)
    assert not good.gop_open and not good.b_frames and good.lost_packets == 0
    assert good.bitrate_bps == pytest.approx(200e3, rel=0.6)
    assert seen["good/sub"].fps == pytest.approx(12, abs=0.5) and seen["good/sub"].width == 192
    assert seen["over-udp/main"].transport == "udp" and seen["over-libav/main"].parameter_sets is None
    assert seen["long/main"].gop_open and seen["long/main"].gop_s > 3
    assert seen["b-frames/main"].b_frames
    assert (seen["hevc/main"].codec, seen["hevc/main"].parameter_sets) == ("hevc", "sdp")
    assert seen["single/main"].parameter_sets == "inband"
    assert seen["slow/main"].fps == pytest.approx(1, abs=0.1)

    assert "good" not in named and "over-udp" not in named and "over-libav" not in named
    assert "camera.gop_long" in named.pop("long")
    assert "camera.b_frames" in named.pop("b-frames")
    assert named.pop("hevc") == {"camera.h265_only"}
    assert named.pop("single") == {"camera.no_sub"}
    assert named.pop("lossy") == {"camera.losing_packets"}
    named.pop("slow", None)
    if seen["late/main"].clock_offset_s is not None:
        assert named.pop("late") == {"camera.clock_off"}
    assert named == {}


async def test_what_cannot_be_reached_is_an_error_with_its_reason() -> None:
    kinds = {
        "refused": FaultKind.REFUSE,
        "locked": FaultKind.UNAUTHORISED,
        "gone": FaultKind.NOT_FOUND,
        "full": FaultKind.SESSION_LIMIT,
        "frozen": FaultKind.FREEZE,
    }
    cameras = [
        SimCamera(name, user="u", password="s3cret", own_port=name == "refused", fault=Fault(kind=kind))
        for name, kind in kinds.items()
    ]
    async with SimulatedTown([*cameras, SimCamera("good")]) as town:
        seen, named = await check([camera(town, name) for name in (*kinds, "good")], window=Window(1.2, 2.0))
    assert set(seen) == {"good/main", "good/sub"}
    assert named == {
        "refused": {"camera.refused"},
        "locked": {"camera.unauthorised"},
        "gone": {"camera.not_found"},
        "full": {"camera.session_limit"},
        "frozen": {"camera.no_media"},
    }


async def test_a_clock_that_is_off_is_told_by_its_sender_report() -> None:
    async with SimulatedTown([SimCamera("late", clock_offset_s=3600)]) as town:
        seen, named = await check([camera(town, "late", sub=None)], window=Window(least_s=6, most_s=7))
    assert seen["late/main"].clock_offset_s == pytest.approx(3600, abs=1)
    assert named == {"late": {"camera.clock_off", "camera.no_sub"}}


async def test_many_cameras_are_measured_in_turns() -> None:
    playing = []
    async with SimulatedTown([SimCamera(f"c-{n}") for n in range(AT_ONCE + 6)]) as town:
        cameras = [camera(town, f"c-{n}", sub=None) for n in range(AT_ONCE + 6)]

        async def watch() -> None:
            while True:
                playing.append(sum(town.playing(one.id) for one in cameras))
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        start = time.monotonic()
        seen, _ = await check(cameras, window=Window(0.3, 0.5))
        watching.cancel()
    assert len(seen) == AT_ONCE + 6 and max(playing) <= AT_ONCE + 1
    assert time.monotonic() - start < 10


async def test_the_command_prints_tables_and_json_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDWATCH_LANG", "en")
    cameras = [SimCamera("c-1"), SimCamera("c-2", user="u", password="s3cret")]
    async with SimulatedTown(cameras) as town:
        wrong = SecretUrl(town.url("c-2")).with_credentials("u", "s3cret-but-wrong").reveal()
        entry = "  - {{id: {0}, name: {0}, village: 东庄, lon: 115.9, lat: 38.4, main: '{1}'}}\n"
        file = tmp_path / "streams.yaml"
        file.write_text("cameras:\n" + entry.format("c-1", town.url("c-1")))

        def run(*arguments: str) -> click.testing.Result:
            return click.testing.CliRunner().invoke(command, ["--live", "--seconds", "3", *arguments, str(file)])

        fine = await asyncio.to_thread(run)
        assert fine.exit_code == 0, fine.output
        assert "c-1 main  H.264 320x180  25.0 fps  GOP 1.0 s" in fine.output and "[camera.no_sub]" in fine.output
        file.write_text(file.read_text() + entry.format("c-2", wrong))
        bad = await asyncio.to_thread(run, "--json")
    assert bad.exit_code == 1 and "s3cret" not in bad.output
    report = json.loads(bad.stdout)
    assert [one["camera"] for one in report["measured"]] == ["c-1"]
    assert {(p["code"], p["severity"]) for p in report["problems"]} == {
        ("camera.no_sub", "warning"),
        ("camera.unauthorised", "error"),
    } | ({("camera.same_url", "warning")} & {(p["code"], p["severity"]) for p in report["problems"]})
