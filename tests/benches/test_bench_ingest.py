"""The bench itself: a tiny run from the command line, and its judge of footage against tampered files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest

from ingest.simulate import SimCamera, SimulatedTown

ROOT = Path(__file__).parents[2]
BENCHES = ROOT / "scripts" / "benches"
KEYS = [
    "cameras",
    "seconds",
    "frames_expected",
    "frames_received",
    "frames_lost",
    "segments",
    "segments_bad",
    "cores",
    "quiet_cores",
    "rss_mb",
    "floor_cores",
    "peers",
    "curve",
    "details",
]


def bench(name: str, *arguments: str, timeout_s: float = 110) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{BENCHES}", "GRIDWATCH_LANG": "en"}
    return subprocess.run(
        [sys.executable, "-P", str(BENCHES / f"{name}.py"), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def test_a_quick_run_of_the_product_prints_and_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = bench("ingest", "--quick", "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text())
    assert list(figures) == KEYS
    assert figures["cameras"] == 2
    assert set(figures["cores"]) == {"simulator", "ingest_recording", "analysis", "command", "total"}
    assert set(figures["quiet_cores"]) == {"sub_4s", "main_6s", "main_4s"}
    assert {"pyav_threads", "ffmpeg_processes", "opencv"} <= set(figures["peers"])
    assert 0 < figures["cores"]["ingest_recording"] < figures["cores"]["total"]
    assert figures["segments_bad"] == 0 and not figures["frames_lost"]
    assert {"worker", "api", "broker", "media", "postgres", "supervisor"} <= set(figures["details"]["parts"])
    assert "whole product" in done.stdout


def test_an_unknown_row_is_refused() -> None:
    done = bench("ingest", "--only", "product,peer")
    assert done.returncode == 2
    assert "peer" in done.stderr and "curve" in done.stderr


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHES))


def record(url: str, folder: Path, frames: int) -> list[Path]:
    """Frames of a stream as they come, in segments of at most 30, with libav's own muxer."""
    made: list[Path] = []
    options = {"rtsp_transport": "tcp", "analyzeduration": "500000"}
    with av.open(url, options=options, timeout=(10, 10)) as source:
        stream = source.streams.video[0]
        output: Any = None
        track: Any = None
        count = 0
        for packet in source.demux(stream):
            if packet.size == 0 or packet.dts is None or (output is None and not packet.is_keyframe):
                continue
            if count == frames:
                break
            if packet.is_keyframe and (output is None or count >= 20 * len(made)):
                if output is not None:
                    output.close()
                made.append(folder / f"{len(made):03d}.mp4")
                output = av.open(str(made[-1]), "w")
                track = output.add_stream_from_template(stream)
            packet.stream = track
            output.mux(packet)
            count += 1
        output.close()
    return made


async def test_the_judge_finds_what_is_lost_doubled_and_broken(rig: None, tmp_path: Path) -> None:
    import asyncio

    from rig.cameras import Counts  # type: ignore[import-not-found]
    from rig.segments import judge, judge_segment  # type: ignore[import-not-found]

    async with SimulatedTown([SimCamera("cam-001", "drawn")]) as town:
        files = await asyncio.to_thread(record, town.url("cam-001"), tmp_path, 60)
    assert len(files) >= 2
    marks = [mark for path in files for mark in (await asyncio.to_thread(judge_segment, path, True)).marks]
    numbers = [number for _, number in marks]
    assert numbers == list(range(numbers[0], numbers[0] + 60))

    def counted(frames: int, last: int) -> Any:
        return Counts({"cam-001": frames}, {"cam-001": last}, 0, 0, 0)

    def verdict(sent: int) -> Any:
        return judge(tmp_path, ["cam-001"], counted(0, -1), counted(sent, numbers[0] + sent - 1), 10.0)

    whole = await asyncio.to_thread(verdict, 60)
    assert (whole.expected, whole.received, whole.lost, whole.doubled, whole.swapped) == (60, 60, 0, 0, 0)
    assert whole.bad == [] and whole.decoded_segments == whole.segments == len(files)
    # what came after the count is nobody's loss
    assert (await asyncio.to_thread(verdict, 50)).lost == 0
    # frames that never arrived
    assert (await asyncio.to_thread(verdict, 63)).lost == 3
    # a segment twice
    first = files[0].read_bytes()
    (tmp_path / "999.mp4").write_bytes(first)
    twice = await asyncio.to_thread(verdict, 60)
    assert twice.lost == 0 and twice.doubled > 0 and twice.swapped == 1
    (tmp_path / "999.mp4").unlink()
    # a flipped stretch in the middle of a picture: the container is whole, the decoder is not content
    at = first.index(b"\x00\x00", first.index(b"mdat") + len(first) // 2)
    files[0].write_bytes(first[:at] + bytes(b ^ 0xFF for b in first[at : at + 400]) + first[at + 400 :])
    broken = await asyncio.to_thread(verdict, 60)
    assert len(broken.bad) == 1 and files[0].name in broken.bad[0]
    # a missing segment
    files[0].unlink()
    assert (await asyncio.to_thread(verdict, 60)).lost >= 20


def test_the_floor_and_a_peer_read_the_same_cameras(rig: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rig.floor.SETTLE_S", 0.2)
    monkeypatch.setattr("rig.peers.SETTLE_S", 0.2)
    from rig.cameras import prepare_clips, simulator  # type: ignore[import-not-found]
    from rig.floor import read_floor  # type: ignore[import-not-found]
    from rig.peers import PeerKind, run_peer  # type: ignore[import-not-found]

    with simulator(2, "tiny", prepare_clips("tiny", None)) as cameras:
        floor = read_floor(cameras, 2, 1.0, tmp_path)
        assert floor is None or floor.bits_per_s > 50_000
        own = run_peer(PeerKind("gridwatch_ingest", 100), cameras, 1.0)
        assert own.cameras == 2 and own.share_received > 0.9
