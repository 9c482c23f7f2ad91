"""A simulated town whose streams are recorded, and the proof of what lies in the files."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from ingest.clock import SystemClock
from ingest.connect_gate import ConnectGate
from ingest.link import CameraLink
from ingest.recording import Fact, Gap, RecordedStream, Recorder, Recording, RecordingAlarm, SegmentClosed
from ingest.recording.files import Files
from ingest.recording.fmp4_read import read_fragment, samples, scan
from ingest.secret import SecretUrl
from ingest.simulate import SimulatedTown, read_frame_mark, source_hash

ZONE = ZoneInfo("Asia/Shanghai")


@dataclass
class Told:
    """Every fact, in order of telling."""

    facts: list[Fact] = field(default_factory=list)

    def __call__(self, fact: Fact) -> None:
        self.facts.append(fact)

    @property
    def closed(self) -> list[SegmentClosed]:
        found = [fact for fact in self.facts if isinstance(fact, SegmentClosed)]
        return sorted(found, key=lambda fact: (fact.camera_id, fact.stream, fact.start_us))

    @property
    def gaps(self) -> list[Gap]:
        return [fact for fact in self.facts if isinstance(fact, Gap)]

    @property
    def alarms(self) -> list[tuple[str, str]]:
        return [(fact.kind, fact.state) for fact in self.facts if isinstance(fact, RecordingAlarm)]


@dataclass
class Running:
    recorder: Recorder
    links: dict[str, CameraLink]
    told: Told

    def recorded(self, camera_id: str) -> int:
        return self.recorder._streams[camera_id, "main"].frames


@asynccontextmanager
async def recording(
    town: SimulatedTown,
    home: Path,
    settings: Recording | None = None,
    *,
    files: Callable[[Path], Files] = lambda _: Files(),
    told: Told | None = None,
    **query: object,
) -> AsyncIterator[Running]:
    """All main streams of the town through real links into a recorder; segments are closed at the end."""
    told = told or Told()
    gate = ConnectGate()
    links = {
        camera.config.id: CameraLink(
            camera.config.id,
            "main",
            SecretUrl(town.url(camera.config.id, "main", **query)),
            clock=SystemClock(),
            gate=gate,
        )
        for camera in town.cameras
    }
    recorder = Recorder(
        [RecordedStream(name, "main", link.fanout) for name, link in links.items()],
        settings or Recording(segment_s=5),
        emit_fact=told,
        clock=SystemClock(),
        home=home,
        zone=ZONE,
        files=files,
    )
    await recorder.start()
    for link in links.values():
        link.start()
    try:
        yield Running(recorder, links, told)
    finally:
        await asyncio.gather(*(link.stop() for link in links.values()))
        await recorder.stop()


async def until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def numbers(path: Path, camera_id: str | None = None, query: str = "") -> list[int]:
    """The frame numbers in a file, in decoding order; all of them must come from the camera's stream."""
    found: list[int] = []
    with path.open("rb") as file:
        for fragment in scan(file, keep_fragments=True).fragments:
            whole = read_fragment(file, fragment.offset)
            assert whole is not None
            for sample in samples(*whole):
                mark = read_frame_mark(sample)
                assert mark is not None
                assert camera_id is None or mark.source == source_hash(camera_id, "main", query)
                found.append(mark.number)
    return found


def decoded(path: Path) -> int:
    """Frames that ffmpeg decodes; it must say nothing, and ffprobe must see a video track that starts at 0."""
    done = subprocess.run(
        ["ffmpeg", "-v", "warning", "-xerror", "-i", path, "-fps_mode", "passthrough", "-f", "framehash", "-"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    packets = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "packet=dts", "-of", "csv=p=0", path],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip
    times = [int(line.strip(",")) for line in packets]
    assert times[0] == 0 and times == sorted(set(times))
    return sum(not line.startswith("#") for line in done.stdout.splitlines())
