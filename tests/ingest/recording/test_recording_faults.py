"""Kills, torn files, full and hung disks, a lost index: what was recorded stays, and it is said what was not."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ingest.recording import Recording, RecordingFolder, SegmentClosed, SegmentKey
from ingest.recording.check import Checker
from ingest.recording.files import Files
from ingest.recording.fmp4_read import scan
from ingest.recording.layout import key_of, marker_of, path_of
from ingest.recording.recover import close_file, close_left_open, not_closed
from ingest.simulate import ClipLibrary, SimCamera, SimulatedTown
from tests.ingest.recording.recording_town import ZONE, Told, decoded, numbers, recording, until


class Rows:
    """An index in memory."""

    def __init__(self, facts: Sequence[SegmentClosed] = ()) -> None:
        self.known = {fact.path: fact for fact in facts}

    def rows(self, folder: str, camera_id: str, day: str) -> dict[str, SegmentClosed]:
        return {path: fact for path, fact in self.known.items() if path.startswith(f"{camera_id}/{day}/")}

    def days(self, folder: str) -> set[tuple[str, str]]:
        return {(path.split("/")[0], path.split("/")[1]) for path in self.known}

    def put(self, facts: Sequence[SegmentClosed]) -> None:
        self.known.update({fact.path: fact for fact in facts})

    def delete(self, keys: Sequence[SegmentKey]) -> None:
        gone = {(key.camera_id, key.stream, key.start_us) for key in keys}
        self.known = {p: f for p, f in self.known.items() if (f.camera_id, f.stream, f.start_us) not in gone}


async def test_kill_9_costs_less_than_a_second(clips: ClipLibrary, tmp_path: Path) -> None:
    root = tmp_path / "recordings"
    cameras = [SimCamera(f"c{n}", scene="drawn", phase_s=n * 0.3) for n in range(4)]
    async with SimulatedTown(cameras, clips=clips) as town:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            Path(__file__).with_name("recording_child.py"),
            tmp_path,
            *(town.url(camera.id) for camera in cameras),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        try:
            assert child.stdout is not None
            async with asyncio.timeout(40):
                for _ in range(6):
                    await child.stdout.readline()
            sent = [town.frames_sent(camera.id) for camera in cameras]
        finally:
            child.kill()
            await child.wait()
    told = Told()
    left_open = [path_of(key, ZONE) for _, key in not_closed(root)]
    assert len(left_open) == 4
    close_left_open(root, ZONE, told, files=Files())
    assert not_closed(root) == []
    # Told is exactly what is kept; a segment in which no fragment was complete yet is gone, its frames counted below.
    assert sorted(fact.path for fact in told.closed) == sorted(path for path in left_open if (root / path).exists())
    for camera, count in zip(cameras, sent, strict=True):
        files = sorted((root / camera.id).rglob("*.mp4"))
        found: list[int] = []
        for path in files:
            found += (here := numbers(path, camera.id))
            assert decoded(path) == len(here)
        assert found == list(range(found[0], found[0] + len(found)))
        assert count - len(found) <= 25, f"{camera.id}: {count} sent, {len(found)} kept"


async def test_every_torn_end_is_cut_off(clips: ClipLibrary, tmp_path: Path) -> None:
    async with (
        SimulatedTown([SimCamera("c", scene="drawn")], clips=clips) as town,
        recording(town, tmp_path) as running,
    ):
        await until(lambda: running.recorded("c") > 60)
    fact = running.told.closed[0]
    whole = (tmp_path / "recordings" / fact.path).read_bytes()
    with (tmp_path / "recordings" / fact.path).open("rb") as file:
        fragments = scan(file, keep_fragments=True).fragments
    root = tmp_path / "torn"
    path = root / fact.path
    key = key_of(fact.path)
    assert key is not None
    ends = [fragments[0].offset, *(f.offset + f.size for f in fragments)]
    for cut in sorted({*ends, *(end + by for end in ends for by in (1, 7, 40, 200)), *range(0, len(whole), 5003)}):
        if cut > len(whole):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        zeros = b"\0" * (cut % 3 * 4096)  # what a file system may leave behind a power loss
        path.write_bytes(whole[:cut] + zeros)
        found = close_file(root, fact.path, key, files=Files())
        kept = max((end for end in ends if end <= cut), default=0)
        if kept <= ends[0]:
            assert found is None and not path.exists()
        else:
            assert found is not None and path.read_bytes() == whole[:kept] and found.bytes == kept
            assert found.start_us == fact.start_us
    assert found is not None and found.sha256 == fact.sha256 and found.end_us == pytest.approx(fact.end_us, abs=2)


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path | None]:
    """A tmpfs of a size, or None where mounting is not permitted."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={size_bytes}".encode()) == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            libc.umount2(bytes(folder), 2)


class QuotaFiles(Files):
    """Files on a disk that takes so many bytes, filler included."""

    def __init__(self, root: Path, size_bytes: int) -> None:
        self.root, self.size_bytes = root, size_bytes

    def free_bytes(self, folder: Path) -> int:
        return max(0, self.size_bytes - sum(p.stat().st_size for p in self.root.rglob("*") if p.is_file()))

    def write(self, fd: int, data: bytes | bytearray) -> None:
        if (room := self.free_bytes(self.root)) < len(data):
            super().write(fd, bytes(data[:room]))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(fd, data)


@pytest.mark.parametrize("mounted", [True, False])
async def test_a_full_disk_is_said_and_recovered_from(clips: ClipLibrary, tmp_path: Path, mounted: bool) -> None:
    size = 3_000_000
    with small_disk(tmp_path / "disk", size) as disk:
        quota = disk is None or not mounted
        home = tmp_path / ("quota" if quota else "disk")
        home.mkdir(exist_ok=True)
        filler = home / "filler"
        filler.write_bytes(bytes(size - 250_000))
        settings = Recording(segment_s=5, folders=[RecordingFolder(path="recordings", reserve_gb=0)])
        async with (
            SimulatedTown([SimCamera(f"c{n}", scene="drawn") for n in range(2)], clips=clips) as town,
            recording(town, home, settings, files=lambda _: QuotaFiles(home, size) if quota else Files()) as running,
        ):
            await until(lambda: ("disk_full", "opened") in running.told.alarms)
            await until(lambda: all(running.recorder._streams[f"c{n}", "main"].gap_open for n in range(2)))
            assert running.recorder.stats()["not_fresh"] == ["c0/main", "c1/main"]
            filler.unlink()
            before = [running.recorded(f"c{n}") for n in range(2)]
            await until(lambda: all(running.recorded(f"c{n}") > before[n] + 40 for n in range(2)))
            assert running.recorder.stats()["not_fresh"] == []
            await until(lambda: ("disk_full", "closed") in running.told.alarms)
        assert not_closed(home / "recordings") == []
        for camera in ("c0", "c1"):
            mine = [fact for fact in running.told.closed if fact.camera_id == camera]
            found = [number for fact in mine for number in numbers(home / "recordings" / fact.path, camera)]
            assert found == sorted(set(found)) and len(mine) >= 2
            for fact in mine:
                assert decoded(home / "recordings" / fact.path) == fact.frames
            gap = [gap for gap in running.told.gaps if gap.camera_id == camera and gap.reason == "disk_full"]
            assert len(gap) == 1, running.told.gaps
            assert gap[0].dropped_units > 0
            missing = found[-1] - found[0] + 1 - len(found)
            assert abs(gap[0].dropped_units - missing) <= 1
        rows = Rows(running.told.closed)
        assert Checker(rows, tmp_path / "progress", ZONE).run([home / "recordings"]).findings == []


class HangingFiles(Files):
    """A disk whose writes wait while `hangs` is set."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()

    def write(self, fd: int, data: bytes | bytearray) -> None:
        self.goes_on.wait(60)
        super().write(fd, data)

    def sync(self, fd: int) -> None:
        self.goes_on.wait(60)
        super().sync(fd)


async def test_a_hung_disk_stops_only_its_own_cameras_and_those_move(clips: ClipLibrary, tmp_path: Path) -> None:
    layers: dict[str, HangingFiles] = {}

    def files(root: Path) -> Files:
        return layers.setdefault(root.name, HangingFiles())

    settings = Recording(segment_s=60, folders=[RecordingFolder(path=name, reserve_gb=0) for name in ("a", "b")])
    names = [f"c{n}" for n in range(4)]
    async with (
        SimulatedTown([SimCamera(name, scene="drawn") for name in names], clips=clips) as town,
        recording(town, tmp_path, settings, files=files) as running,
    ):
        streams = running.recorder._streams
        await until(lambda: all(running.recorded(name) > 20 for name in names))
        on_a = [name for name in names if (disk := streams[name, "main"].disk) is not None and disk.root.name == "a"]
        assert len(on_a) == 2, "cameras are spread over the disks"
        layers["a"].goes_on.clear()
        await until(lambda: ("disk_slow", "opened") in running.told.alarms)
        await until(lambda: all((disk := streams[name, "main"].disk) and disk.root.name == "b" for name in names))
        before = {name: running.recorded(name) for name in names}
        await until(lambda: all(running.recorded(name) > before[name] + 20 for name in names))
        assert running.recorder.stats()["not_fresh"] == []
        layers["a"].goes_on.set()
        await until(lambda: ("disk_slow", "closed") in running.told.alarms)
    for name in names:
        mine = [fact for fact in running.told.closed if fact.camera_id == name]
        found = [number for fact in mine for number in numbers(Path(fact.folder) / fact.path, name)]
        assert found == sorted(set(found))
        missing = found[-1] - found[0] + 1 - len(found)
        gaps = [gap for gap in running.told.gaps if gap.camera_id == name]
        if name in on_a:
            assert len(mine) == 2 and [gap.reason for gap in gaps] == ["disk_slow"]
            assert gaps[0].dropped_units == missing
        else:
            assert len(mine) == 1 and missing == 0 and gaps == []


async def test_a_lost_index_is_rebuilt_and_every_damage_is_found(clips: ClipLibrary, tmp_path: Path) -> None:
    async with (
        SimulatedTown([SimCamera(f"c{n}", scene="drawn") for n in range(2)], clips=clips) as town,
        recording(town, tmp_path) as running,
    ):
        await until(lambda: all(running.recorder._streams[f"c{n}", "main"].segments >= 3 for n in range(2)))
    root = tmp_path / "recordings"
    old = 1_700_000_000
    for path in root.rglob("*.mp4"):
        os.utime(path, (old, old))
    facts = {fact.path: fact for fact in running.told.closed}
    progress = tmp_path / "progress"

    rows = Rows()
    report = Checker(rows, progress, ZONE, repair=True).run([root])
    assert report.repaired == len(report.findings) == len(facts)
    for path, fact in rows.known.items():
        known = facts[path].model_dump(exclude={"recovered", "end_us"})
        assert fact.model_dump(exclude={"recovered", "end_us"}) == known
        assert abs(fact.end_us - facts[path].end_us) <= 2

    report = Checker(rows, tmp_path / "other", ZONE).run([root])
    assert report.findings == [] and (report.days, report.segments) == (2, len(facts))
    report = Checker(rows, progress, ZONE).run([root])
    assert (report.days, report.passed_over, report.bytes_read) == (0, 2, 0)

    paths = sorted(facts)
    shutil.copy(root / paths[0], spare := tmp_path / "spare")
    (root / paths[0]).unlink()
    with (root / paths[1]).open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\x55")
    with (root / paths[2]).open("r+b") as file:
        file.truncate(facts[paths[2]].bytes - 10)
    marker = root / marker_of(facts[paths[3]])
    marker.touch()
    os.utime(marker, (old, old))
    del rows.known[paths[4]]
    naps: list[float] = []
    report = Checker(rows, progress, ZONE, again=True, rate_bytes_s=1_000_000, sleep=naps.append).run([root])
    assert sorted(report.findings) == sorted(
        [
            ("no_file", paths[0]),
            ("sha256", paths[1]),
            ("torn", paths[2]),
            ("left_open", paths[3]),
            ("no_row", paths[4]),
        ]
    )
    assert sum(naps) > 0.05, "reading is held to its rate"
    report = Checker(rows, progress, ZONE, again=True, repair=True).run([root])
    assert report.repaired == 4
    shutil.copy(spare, root / paths[0])
    os.utime(root / paths[0], (old, old))
    report = Checker(rows, progress, ZONE, again=True, repair=True).run([root])
    assert sorted(report.findings) == [("no_row", paths[0]), ("sha256", paths[1])]
    assert decoded(root / paths[2]) == rows.known[paths[2]].frames


async def test_a_hung_disk_does_not_keep_the_recorder_from_ending(clips: ClipLibrary, tmp_path: Path) -> None:
    layer = HangingFiles()
    async with SimulatedTown([SimCamera("c", scene="drawn")], clips=clips) as town:
        async with recording(town, tmp_path, files=lambda _: layer) as running:
            await until(lambda: running.recorded("c") > 20)
            layer.goes_on.clear()
            before = running.recorded("c")
            await until(lambda: running.recorded("c") > before + 20)
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 6
    layer.goes_on.set()
    assert not_closed(tmp_path / "recordings") or running.told.closed
