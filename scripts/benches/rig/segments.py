"""The judge of recordings: opens every segment, checks that it decodes clean, and counts frames by their own numbers.

The simulated cameras put their name and a number into each access unit (SEI), so that a lost, doubled or swapped frame
shows, whatever the product's own counters say.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import av

from ingest.simulate.frame_number import read_frame_mark, source_hash
from rig.cameras import Counts

SUFFIX = ".mp4"
SAMPLE_EVERY = 50  # of long runs 2 % of the segments are decoded
DECODE_ALL_UP_TO_S = 60.0


@dataclass
class SegmentVerdict:
    """One file: the marks in file order, and what is wrong with it."""

    path: str
    marks: list[tuple[int, int]] = field(default_factory=list)  # (source, number)
    frames: int = 0
    decoded: int | None = None
    wrong: str | None = None


def judge_segment(path: Path, decode: bool) -> SegmentVerdict:
    """Read one segment to its end."""
    verdict = SegmentVerdict(str(path))
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "explode"}
            stream.codec_context.thread_count = 1
            decoded = 0
            last_dts = None
            for packet in container.demux(stream):
                if packet.size:
                    verdict.frames += 1
                    mark = read_frame_mark(bytes(packet))
                    if mark is None:
                        verdict.wrong = verdict.wrong or "a frame without its number"
                    else:
                        verdict.marks.append((mark.source, mark.number))
                    if last_dts is not None and packet.dts is not None and packet.dts <= last_dts:
                        verdict.wrong = verdict.wrong or "time does not grow"
                    last_dts = packet.dts
                if decode:
                    decoded += len(packet.decode())
            if decode:
                verdict.decoded = decoded
                if decoded != verdict.frames:
                    verdict.wrong = verdict.wrong or f"{verdict.frames} frames, of which {decoded} decode"
    except (av.error.FFmpegError, IndexError, OSError) as error:
        verdict.wrong = f"{type(error).__name__}: {error}"
    if verdict.wrong is None and not verdict.frames:
        verdict.wrong = "no frames"
    return verdict


@dataclass(frozen=True)
class Footage:
    """What a run has recorded of the expected frames."""

    segments: int
    bad: list[str]
    expected: int
    received: int
    lost: int
    doubled: int
    swapped: int
    decoded_segments: int
    bytes: int
    cameras_with_loss: dict[str, int]


def segment_files(folder: Path) -> list[Path]:
    """Every segment below `folder`."""
    return sorted(path for path in folder.rglob("*") if path.suffix == SUFFIX and path.is_file())


def judge(folder: Path, cameras: Sequence[str], before: Counts, after: Counts, seconds: float) -> Footage:
    """Compare the files below `folder` with what the simulator sent between two counts.

    `after` was taken while the product still recorded, so all that it counts must be in the files by now.
    """
    files = segment_files(folder)
    every = 1 if seconds <= DECODE_ALL_UP_TO_S else SAMPLE_EVERY
    chosen = [index % every == 0 for index in range(len(files))]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        verdicts = list(pool.map(judge_segment, files, chosen, chunksize=4))
    by_source: dict[int, list[int]] = {}
    for verdict in verdicts:
        for source, number in verdict.marks:
            by_source.setdefault(source, []).append(number)
    received = doubled = swapped = 0
    losses = {}
    expected = 0
    for camera in cameras:
        numbers = [n for n in by_source.get(source_hash(camera, "main"), []) if n <= after.last_number[camera]]
        times = Counter(numbers)
        wanted = after.frames[camera] - before.frames[camera]
        expected += wanted
        received += len(times)
        doubled += len(numbers) - len(times)
        swapped += sum(later < earlier for earlier, later in pairwise(numbers))
        if wanted != len(times):
            losses[camera] = wanted - len(times)
    return Footage(
        segments=len(files),
        bad=[f"{verdict.path}: {verdict.wrong}" for verdict in verdicts if verdict.wrong],
        expected=expected,
        received=received,
        lost=expected - received,
        doubled=doubled,
        swapped=swapped,
        decoded_segments=sum(chosen),
        bytes=sum(path.stat().st_size for path in files),
        cameras_with_loss=losses,
    )
