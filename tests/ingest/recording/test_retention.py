"""What retention deletes: never evidence, never what is in use, never more than needed, oldest first by class."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.clock import ManualClock
from ingest.recording import Fact, RecordingAlarm, Retention, SegmentKey, SegmentsRemoved
from ingest.recording.files import Files
from ingest.recording.layout import CLOSED, OWN, USAGE, path_of, to_us
from ingest.recording.recover import not_closed
from ingest.recording.retention import Keeper, Keepers, Policy
from tests.ingest.recording.recording_town import ZONE

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
DAY_US = 86_400_000_000
SIZE = 100


class RoomyFiles(Files):
    """Real files on a disk that says how much is free."""

    free = 1 << 40

    def free_bytes(self, folder: Path) -> int:
        return self.free


def keeper(
    root: Path, told: list[Fact], clock: ManualClock, retention: Retention, *, files: Files | None = None, **limits: int
) -> Keeper:
    group = Keepers(limits.pop("global_bytes", None))
    made = Keeper(
        root, files=files or RoomyFiles(), tell=told.append, clock=clock, zone=ZONE,
        policy=lambda camera, stream: Policy.of(retention), siblings=group, **limits,
    )  # fmt: skip
    group.add(made)
    return made


def store(root: Path, camera: str, at: datetime, size: int = SIZE) -> SegmentKey:
    key = SegmentKey(camera_id=camera, stream="main", start_us=to_us(at))
    path = root / path_of(key, ZONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return key


def left(root: Path) -> set[tuple[str, str]]:
    return {(path.parts[-3], path.name) for path in root.rglob("*.mp4")}


segments = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.integers(0, 120 * 24),  # hours ago
        st.sampled_from(["continuous", "continuous", "event", "evidence"]),
        st.booleans(),  # somebody reads it
    ),
    unique_by=lambda segment: segment[:2],
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    held=segments,
    budget=st.one_of(st.none(), st.integers(0, 20)),
    kind=st.sampled_from(["camera", "folder", "global", "reserve"]),
)
def test_only_what_the_rules_allow_is_deleted(
    tmp_path: Path, held: list[tuple[str, int, str, bool]], budget: int | None, kind: str
) -> None:
    root = tmp_path / "disk"
    shutil.rmtree(root, ignore_errors=True)
    (root / OWN).mkdir(parents=True)
    clock = ManualClock(NOW)
    told: list[Fact] = []
    limit = None if budget is None else budget * SIZE
    files = RoomyFiles()
    retention = Retention(continuous_days=30, event_days=90, max_gb=limit / 1e9 if limit and kind == "camera" else None)
    limits: dict[str, int] = {}
    if limit is not None and kind in ("folder", "global"):
        limits["max_bytes" if kind == "folder" else "global_bytes"] = limit
    if limit is not None and kind == "reserve":
        files.free, limits["reserve_bytes"] = 0, limit
    made = keeper(root, told, clock, retention, files=files, **limits)
    locks: list[int] = []
    facts: dict[tuple[str, str], tuple[datetime, str, bool]] = {}
    for camera, hours, kept_as, is_read in held:
        at = NOW - timedelta(hours=hours)
        key = store(root, camera, at)
        path = root / path_of(key, ZONE)
        if kept_as != "continuous":
            made.keep(camera, key.start_us, key.start_us + 1, kept_as)
        if is_read:
            locks.append(fd := os.open(path, os.O_RDONLY))
            fcntl.flock(fd, fcntl.LOCK_SH)
        facts[camera, path.name] = (at, kept_as, is_read)
    # A mark spoils its neighbours within the hour that a segment may be long: the class is what retention sees.
    classes = {
        (camera, Path(stored.path).name): stored.kept_as
        for camera, day in {(p.parts[-3], p.parts[-2]) for p in root.rglob("*.mp4")}
        for stored in made.stored(camera, day)
    }
    for name, (_, kept_as, _) in facts.items():
        assert kept_as == "continuous" or classes[name] in (kept_as, "evidence")
    made.sweep()
    for fd in locks:
        os.close(fd)
    after = left(root)
    gone = facts.keys() - after
    for name, (at, _, is_read) in facts.items():
        longest = {"continuous": 30, "event": 90, "evidence": 10_000}[classes[name]]
        too_old = NOW - at >= timedelta(days=longest)
        if name in gone:
            assert classes[name] != "evidence" and not is_read
            assert too_old or budget is not None
        else:
            assert not too_old or is_read
    said = {
        (k.camera_id, Path(path_of(k, ZONE)).name) for f in told if isinstance(f, SegmentsRemoved) for k in f.segments
    }
    assert said == gone, "what is deleted is told, and only that"
    for_room = {
        name for name in gone if NOW - facts[name][0] < timedelta(days={"continuous": 30, "event": 90}[classes[name]])
    }
    for name in for_room:
        of = [n for n in after if kind != "camera" or n[0] == name[0]]
        free = [n for n in of if not facts[n][2]]
        older = [n for n in free if classes[n] == classes[name] and facts[n][0] < facts[name][0]]
        assert not older, "an older one of the same class is left"
        if classes[name] == "event":
            assert not [n for n in free if classes[n] == "continuous"], "continuous footage goes before events"
    if limit is not None and kind in ("folder", "global") and len(after) * SIZE > limit:
        assert all(classes[name] == "evidence" or facts[name][2] for name in after), "more could have been deleted"
    if limit is not None and kind == "reserve":
        assert len(for_room) * SIZE <= limit + SIZE
    assert made.bytes == len(after) * SIZE


def test_deleting_is_told_first_and_a_refusal_deletes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    (root / OWN).mkdir(parents=True)
    store(root, "a", NOW - timedelta(days=40))

    def refuse(fact: Fact) -> None:
        assert left(root), "the file is still there when the index is told"
        raise OSError("the spool is full")

    made = keeper(root, [], ManualClock(NOW), Retention(continuous_days=30, event_days=90))
    made._tell = refuse
    with pytest.raises(OSError, match="spool"):
        made.sweep()
    assert left(root)


def test_a_budget_is_announced_before_it_bites(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    (root / OWN).mkdir(parents=True)
    clock = ManualClock(NOW)
    told: list[Fact] = []
    made = keeper(root, told, clock, Retention(continuous_days=30, event_days=90), max_bytes=100_000)
    made.sweep()
    at = NOW
    for _ in range(6):  # 100 bytes a minute would fill the budget within 17 hours
        key = store(root, "a", at)
        with (root / CLOSED).open("a") as file:
            file.write(f"{path_of(key, ZONE)} {SIZE}\n")
        clock.advance(60)
        at += timedelta(seconds=60)
        made.sweep()
    alarms = [fact for fact in told if isinstance(fact, RecordingAlarm)]
    assert [(alarm.kind, alarm.state) for alarm in alarms] == [("retention_short", "opened")]
    assert not [fact for fact in told if isinstance(fact, SegmentsRemoved)], "nothing is deleted yet"


def test_one_process_keeps_a_folder_and_counts_what_the_others_close(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    clock = ManualClock(NOW)
    first, second = (keeper(root, [], clock, Retention(continuous_days=1, event_days=1)) for _ in range(2))
    assert first._is_keeper() and not second._is_keeper()
    key = store(root, "a", NOW)
    first.sweep()
    assert first.bytes == SIZE
    key = store(root, "a", NOW + timedelta(minutes=1))
    with (root / CLOSED).open("a") as file:
        file.write(f"{path_of(key, ZONE)} {SIZE}\n")
    first.sweep()
    assert first.bytes == 2 * SIZE


def test_start_of_thirty_days_of_128_cameras(tmp_path: Path) -> None:
    """5.5 million segments in 3,840 folders: the start reads counts, lists the last two days, and opens no file."""
    root = tmp_path / "disk"
    (root / OWN / "open").mkdir(parents=True)
    days = [(NOW - timedelta(days=n)).strftime("%Y-%m-%d") for n in range(30)]
    rows = []
    for camera in range(128):
        for day in days:
            (root / f"c{camera}" / day).mkdir(parents=True)
            rows.append([f"c{camera}", "main", day, 1440 * 22_500_000, 1440])
    saved = {"through": days[1], "days": rows}
    (root / USAGE).write_text(json.dumps(saved))
    assert sum(row[4] for row in rows) == 5_529_600
    made = keeper(root, [], ManualClock(NOW), Retention(continuous_days=60, event_days=90))
    began_s = time.monotonic()
    assert not_closed(root) == []
    made.count()
    made.sweep()
    assert time.monotonic() - began_s < 10
    assert made.bytes == 28 * 128 * 1440 * 22_500_000
