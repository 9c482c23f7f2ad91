"""Clips: what they are, that they are encoded once, and that a person in one is seen by the product's own detector."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.detector import OnnxDetector
from analytics.model import load_model
from ingest.errors import GridwatchError
from ingest.simulate import ClipLibrary, ensure_clips, open_clips, phase_for, scene_for
from ingest.simulate.bitstream import split_annex_b
from ingest.simulate.drawn_scene import DrawnScene, read_burnt_clock
from ingest.simulate.frame_number import NumberEncoder, decode_64, encode_64, mark_nal, read_frame_mark
from ingest.simulate.packetiser import fragments
from ingest.simulate.recipe import Profile, Recipe

_SMALL = Recipe("drawn", Profile("small", 160, 96, Fraction(10), 50_000, gop_s=1.0), 2.0)


@pytest.mark.parametrize(
    ("profile", "gop_s"),
    [("tiny", 1), *((f"tiny-gop{gop}", gop) for gop in (1, 2, 4, 10, 30)), ("tiny-1fps", 4), ("tiny-h265", 1)],
)
def test_keyframes_stand_exactly_a_gop_apart(clips: ClipLibrary, profile: str, gop_s: int) -> None:
    clip = clips.get("drawn", profile)
    starts = [clip.units[index].pts_90k for index in clip.keyframes]
    assert {after - before for before, after in itertools.pairwise(starts)} <= {gop_s * 90000}
    assert clip.duration_90k - starts[-1] + starts[0] == gop_s * 90000, "also across the loop"


def test_night_halves_the_rate_and_b_frames_reorder(clips: ClipLibrary) -> None:
    night = clips.get("drawn", "tiny-night")
    steps = [b.pts_90k - a.pts_90k for a, b in zip(night.units, night.units[1:], strict=False)]
    assert steps[:140] == [3600] * 140 and steps[-60:] == [7500] * 60
    assert any(unit.pts_90k != unit.dts_90k for unit in clips.get("drawn", "tiny-bframes").units)
    assert all(unit.pts_90k == unit.dts_90k for unit in clips.get("drawn", "tiny").units)


def test_a_set_up_encodes_once_and_a_run_never(tmp_path: Path) -> None:
    with pytest.raises(GridwatchError, match=r"simulate\.clips_missing"):
        open_clips([_SMALL], tmp_path)
    seen: list[float] = []
    ensure_clips([_SMALL], tmp_path, lambda done, whole: seen.append(done / whole))
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1)
    made = (tmp_path / _SMALL.file_name).stat().st_mtime_ns
    ensure_clips([_SMALL], tmp_path, lambda done, whole: pytest.fail("nothing is to be done"))
    assert (tmp_path / _SMALL.file_name).stat().st_mtime_ns == made
    assert len(open_clips([_SMALL], tmp_path).get("drawn", "small").units) == 20
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_damaged_clip_is_named(tmp_path: Path) -> None:
    ensure_clips([_SMALL], tmp_path)
    (tmp_path / _SMALL.file_name).write_bytes(b"nothing")
    with pytest.raises(GridwatchError, match=_SMALL.key):
        open_clips([_SMALL], tmp_path).get("drawn", "small")


def test_the_walker_is_a_person_to_the_detector_and_nobody_else_is_there(clips: ClipLibrary) -> None:
    recipe = clips.recipe("walker", "tiny")
    facts = json.loads((clips.folder / recipe.file_name).with_suffix(".json").read_text())
    truth = facts["ground_truth"]
    detector = OnnxDetector(load_model())
    scores: list[float] = []
    with av.open(str(clips.folder / recipe.file_name)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % 25:
                continue
            rgb = frame.to_ndarray(format="rgb24")
            people = [
                found
                for found in detector.detect(np.asarray(cv2.resize(rgb, detector.input_size), np.uint8))
                if found.object_class == "person" and found.score >= 0.5
            ]
            time_s = number / 25
            if truth["enters_zone_s"] <= time_s <= truth["leaves_zone_s"]:
                scores.append(max((found.score for found in people), default=0.0))
                x, y, _, h = truth["boxes"][number]
                assert people and abs(people[0].box.x - x) < 0.05 and abs(people[0].box.y - y) < 0.08
                assert 0.25 <= h <= 0.40
            elif not truth["enters_s"] <= time_s <= truth["leaves_s"]:
                assert not people
    assert len(scores) >= 7 and min(scores) >= 0.5


@pytest.mark.parametrize("height", [90, 360, 720])
def test_the_burnt_clock_is_read_back_at_any_scale(height: int) -> None:
    scene = DrawnScene(640, 360)
    for time_s in (0.0, 7.04, 11.96, 29.88):
        luma = cv2.cvtColor(scene.picture(time_s), cv2.COLOR_BGR2GRAY)
        scaled = np.asarray(cv2.resize(luma, (height * 16 // 9, height), interpolation=cv2.INTER_AREA), np.uint8)
        assert read_burnt_clock(scaled) == pytest.approx(time_s, abs=0.006)
    assert read_burnt_clock(np.full((360, 640), 120, np.uint8)) is None


def test_the_demo_has_walkers_at_different_times() -> None:
    scenes = [scene_for(index) for index in range(128)]
    assert (scenes.count("walker"), scenes.count("street")) == (16, 8)
    phases = sorted(phase_for(index) for index in range(0, 128, 8))
    assert min(after - before for before, after in itertools.pairwise(phases)) > 0.5
    assert phase_for(0) == 6.0


@given(number=st.integers(0, 2**64 - 1), source=st.integers(0, 2**64 - 1))
def test_a_mark_is_read_back_and_never_needs_escaping(number: int, source: int) -> None:
    for codec in ("h264", "hevc"):
        nal = mark_nal(codec, source, number)
        assert b"\x00" not in nal[3:] and len(nal) == len(mark_nal(codec))
        mark = read_frame_mark(b"\x00\x00\x00\x01" + nal + b"\x00\x00\x00\x01\x65rest")
        assert mark is not None and (mark.source, mark.number) == (source, number)
    assert NumberEncoder().encode(number) == encode_64(number) and decode_64(encode_64(number)) == number


@given(body=st.binary(min_size=3, max_size=5000), codec=st.sampled_from(["h264", "hevc"]))
def test_fragments_give_the_nal_unit_back(body: bytes, codec: str) -> None:
    nal = (b"\x65" if codec == "h264" else b"\x26\x01") + body
    parts = fragments(nal, codec, 100)
    if len(nal) <= 100:
        assert parts == [nal]
        return
    head = 2 if codec == "h264" else 3
    flags = [part[head - 1] & 0xC0 for part in parts]
    assert flags[0] == 0x80 and flags[-1] == 0x40 and not any(flags[1:-1])
    assert all(len(part) <= 100 for part in parts)
    assert b"".join(part[head:] for part in parts) == nal[1 if codec == "h264" else 2 :]


@given(nals=st.lists(st.binary(min_size=1, max_size=40).filter(lambda b: b"\x00" not in b), min_size=1, max_size=5))
def test_annex_b_is_split_at_start_codes_of_either_length(nals: list[bytes]) -> None:
    starts = (b"\x00\x00\x01", b"\x00\x00\x00\x01")
    stream = b"".join(starts[number % 2] + nal for number, nal in enumerate(nals))
    assert split_annex_b(stream) == nals


def test_the_command_serves_the_ids_of_streams_yaml_and_ends_on_ctrl_c(clips: ClipLibrary) -> None:
    streams = Path(__file__).parents[3] / "streams.yaml"
    program = [sys.executable, "-c", "from command.cli import main; main()", "simulate"]
    options = ["--streams", str(streams), "--clips", "test", "--port", "0", "--control-port", "0"]
    child = subprocess.Popen([*program, *options], stdout=subprocess.PIPE, text=True, env=_environment())
    try:
        ready = child.stdout.readline()
        assert "128 simulated cameras are ready, for example rtsp://127.0.0.1:" in ready
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
    finally:
        child.kill()
        child.wait()


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "GRIDWATCH_LANG": "en"}
