"""Simulator, real links, recorder, files: nothing lost, doubled or swapped, and every file opens anywhere."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from urllib.parse import urlencode

import pytest

from ingest.recording import Recording
from ingest.recording.recover import not_closed
from ingest.simulate import ClipLibrary, Fault, FaultKind, SimCamera, SimulatedTown
from tests.ingest.recording.recording_town import decoded, numbers, recording, until

VARIANTS = [
    {"gop_s": 1},
    {"b_frames": "true", "near_wrap": "true"},
    {"codec": "h265"},
    {"rate": "night", "parameter_sets": "sdp"},
    {"rate": "1fps"},
    {"parameter_sets": "inband"},
]


async def test_every_kind_of_stream(clips: ClipLibrary, tmp_path: Path) -> None:
    """All variants at once, each recorded over several segments and read back frame by frame."""
    cameras = [SimCamera(f"c{n}", scene="drawn") for n in range(len(VARIANTS))]
    queries = {f"c{n}": urlencode(sorted(variant.items())) for n, variant in enumerate(VARIANTS)}
    async with SimulatedTown(cameras, clips=clips) as town:
        plain = town.url
        town.url = lambda camera, stream="main", **_: plain(camera, stream) + "?" + queries[camera]  # type: ignore[method-assign]
        async with recording(town, tmp_path) as running:
            await until(
                lambda: all(running.recorder._streams[f"c{n}", "main"].segments >= 3 for n in range(len(VARIANTS)))
            )
            assert running.recorder.stats()["not_fresh"] == []
    for camera, query in queries.items():
        mine = [fact for fact in running.told.closed if fact.camera_id == camera]
        assert len(mine) >= 3
        found: list[int] = []
        for fact in mine:
            path = tmp_path / "recordings" / fact.path
            assert hashlib.sha256(path.read_bytes()).hexdigest() == fact.sha256
            here = numbers(path, camera, query)
            assert decoded(path) == len(here) == fact.frames
            assert fact.gaps == 0 and fact.bytes == path.stat().st_size
            found += here
        assert found == list(range(found[0], found[0] + len(found))), camera
        for before, after in itertools.pairwise(mine):
            assert abs(after.start_us - before.end_us) < 60_000, camera
    assert not_closed(tmp_path / "recordings") == []
    assert running.told.gaps == []


@pytest.mark.parametrize("kind", [FaultKind.CUT, FaultKind.JUMP])
async def test_a_lost_session_and_a_jump_of_the_clock_begin_a_new_segment(
    clips: ClipLibrary, tmp_path: Path, kind: FaultKind
) -> None:
    async with (
        SimulatedTown([SimCamera("c", scene="drawn")], clips=clips) as town,
        recording(town, tmp_path, Recording(segment_s=3600)) as running,
    ):
        await until(lambda: running.recorded("c") > 40)
        town.set_fault("c", Fault(kind=kind, for_s=0.5))
        await until(lambda: running.recorder._streams["c", "main"].segments == 2)
        before = running.recorded("c")
        await until(lambda: running.recorded("c") > before + 30)
    first, second = running.told.closed
    for fact in (first, second):
        path = tmp_path / "recordings" / fact.path
        assert decoded(path) == fact.frames == len(numbers(path))
    a, b = (numbers(tmp_path / "recordings" / fact.path) for fact in (first, second))
    assert a == list(range(a[0], a[0] + len(a))) and b == list(range(b[0], b[0] + len(b))) and b[0] > a[-1]
    if kind is FaultKind.JUMP:
        assert b[0] == a[-1] + 1, "a jump of the clock costs no frame"
