"""The spool: what was told to be durable is there after any death, and nothing is there twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.errors import GridwatchError
from ingest.spool import Bell, Spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "w.spool", reserve_bytes=1 << 20)
    yield made
    made.close()


def test_rows_come_back_in_order_and_numbers_are_never_used_again(spool: Spool) -> None:
    assert spool.put_many([("event", "a"), ("answer", "b"), ("event", "c")]) == [1, 2, 3]
    assert [row.body for row in spool.read(2)] == ["a", "b"]
    assert [row.body for row in spool.read(9, after=1)] == ["b", "c"]
    assert [row.body for row in spool.read(9, kind="event")] == ["a", "c"]
    spool.remove_through(3)
    assert spool.count == 0
    assert spool.put("event", "d") == 4
    spool.remove([4, 77])
    assert spool.read(9) == []


def test_one_kind_is_removed_without_the_other(spool: Spool) -> None:
    spool.put_many([("event", "a"), ("answer", "b"), ("event", "c")])
    spool.remove_through(3, kind="event")
    assert [row.body for row in spool.read(9)] == ["b"]


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    first = Spool(tmp_path / "w.spool")
    first.put("event", "a")
    first.remove_through(1)
    name = first.id
    first.close()
    second = Spool(tmp_path / "w.spool")
    assert second.put("event", "b") == 2
    assert second.id == name
    second.close()


def test_callers_of_one_moment_share_a_commit(spool: Spool) -> None:
    spool.put("event", "first")
    commits = spool.commits
    with spool._turn:  # the disk is busy: everybody queues
        threads = [threading.Thread(target=spool.put, args=("event", str(i))) for i in range(20)]
        for thread in threads:
            thread.start()
        while len(spool._waiting) < 20:
            pass
    for thread in threads:
        thread.join()
    assert spool.commits - commits == 1
    assert {row.body for row in spool.read(99)} == {"first", *map(str, range(20))}


def test_text_that_no_file_can_hold_hurts_only_its_own_caller(spool: Spool) -> None:
    with pytest.raises(UnicodeEncodeError):
        spool.put("event", "\ud800")
    assert spool.put("event", "好") == 1


def test_second_writer_is_refused_but_a_reader_is_welcome(spool: Spool) -> None:
    spool.put("event", "a")
    other = Spool(spool.path)
    assert [row.body for row in other.read(9)] == ["a"]
    with pytest.raises(GridwatchError, match=r"spool\.two_writers"):
        other.put("event", "b")
    spool.close()
    assert other.put("event", "b") == 2
    other.close()


def test_full_disk_lives_on_the_reserve_then_says_so_and_recovers(spool: Spool) -> None:
    spool.put("event", "a")
    reserve = spool.path.with_name("w.spool.reserve")
    assert reserve.stat().st_size == 1 << 20
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "database or disk is full"
    with pytest.raises(GridwatchError, match=r"spool\.disk_full") as full:
        spool.put("event", "x" * 100_000)
    assert str(spool.path) in full.value.sentence("zh")
    assert spool.on_reserve
    assert reserve.stat().st_size == 0
    spool._db.execute("PRAGMA max_page_count = 1000000")
    assert spool.put("event", "y" * 100_000) == 2
    assert not spool.on_reserve
    assert reserve.stat().st_size == 1 << 20
    assert [len(row.body) for row in spool.read(9)] == [1, 100_000]


@pytest.mark.parametrize("harm", ["zeroes in the middle", "cut short", "not a database"])
def test_damaged_file_is_set_aside_and_readable_rows_are_kept(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "w.spool"
    spool = Spool(path)
    spool.put_many([("event", f"{i:04}" + "x" * 500) for i in range(200)])
    name = spool.id
    spool.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        if harm == "zeroes in the middle":
            file.seek(size // 2 // 4096 * 4096)
            file.write(bytes(8192))
        elif harm == "cut short":
            file.truncate(size * 3 // 4)
        else:
            file.write(b"rubbish" * 200)
    again = Spool(path)
    seq = again.put("event", "new")
    kept = again.read(999)
    assert [row.seq for row in kept] == sorted({row.seq for row in kept})
    assert kept[-1].body == "new"
    assert list(tmp_path.glob("w.spool.damaged-*"))
    if harm == "zeroes in the middle":
        assert len(kept) > 100
        assert (seq, again.id) == (201, name)
    if harm == "not a database":
        assert (seq, len(kept)) == (1, 1)
        assert again.id != name, "numbers restart, so the name must differ"
    again.close()


def test_reader_follows_a_file_that_was_replaced(spool: Spool) -> None:
    spool.put("event", "a")
    reader = Spool(spool.path)
    assert reader.count == 1
    for ending in ("", "-wal", "-shm"):
        spool.path.with_name(spool.path.name + ending).unlink(missing_ok=True)
    spool.put("event", "b")
    assert [row.body for row in reader.read(9)] == ["b"]
    reader.close()


WRITER = """
import sys, pathlib, threading
from ingest.spool import Spool
spool = Spool(pathlib.Path(sys.argv[1]), reserve_bytes=0)
lock = threading.Lock()
def put(name):
    for i in range(100000):
        told = f"{name}.{i}"
        spool.put("event", told)
        with lock:
            print(told, flush=True)
for name in "abc":
    threading.Thread(target=put, args=(f"{sys.argv[2]}{name}",)).start()
"""


def kill_loop(path: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    told: set[str] = set()
    seen: set[str] = set()
    reader = Spool(path, reserve_bytes=0)
    last = 0
    for run in range(kills):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"r{run}"], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(chance.randrange(1, 60)):
            told.add(child.stdout.readline().strip())
            if chance.random() < 0.2 and (rows := reader.read(5, after=last)):
                seen |= {row.body for row in rows}
                last = rows[-1].seq
                reader.remove_through(last)
        os.kill(child.pid, signal.SIGKILL)
        told |= {
            line.strip() for line in child.stdout.read().splitlines() if line.count(".") == 1 and line[-1:].isdigit()
        }
        child.wait()
    rows = reader.read(1_000_000, after=last)
    bodies = [row.body for row in rows]
    assert len(bodies) == len(set(bodies))
    assert not seen & set(bodies), "nothing comes twice"
    assert told <= seen | set(bodies), "what was told durable is there"
    assert reader._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    reader.close()


def test_killed_writer_loses_nothing_that_it_was_told_is_durable(tmp_path: Path) -> None:
    kill_loop(tmp_path / "w.spool", kills=4, seed=7)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_killed_writer_two_hundred_times(tmp_path: Path, seed: int) -> None:
    kill_loop(tmp_path / "w.spool", kills=50, seed=seed)


async def test_bell_wakes_its_listener_and_is_no_hindrance_without_one(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 40) / "bell"
    bell, far = Bell(path), Bell(path)
    far.ring()  # nobody listens yet
    bell.listen()
    waiting = asyncio.create_task(bell.wait(10))
    await asyncio.sleep(0)
    await asyncio.to_thread(far.ring)
    assert await waiting
    assert not await bell.wait(0.01)
    bell.close()
    far.ring()
    again = Bell(path)
    again.listen()  # the path is free again
    again.close()
    far.close()


async def test_put_rings(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "bell")
    bell.listen()
    spool = Spool(tmp_path / "w.spool", bell=Bell(tmp_path / "bell"), reserve_bytes=0)
    await asyncio.to_thread(spool.put, "event", "a")
    assert await bell.wait(5)
    spool.close()
    bell.close()


def test_space_of_a_long_outage_is_given_back(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.spool._SHRINK_BYTES", 1 << 20)
    spool.put_many([("event", "x" * 1000)] * 5000)
    before = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool.remove_through(5000)
    after = spool._db.execute("PRAGMA page_count").fetchone()[0]
    assert after < before
    assert sqlite3.connect(spool.path).execute("PRAGMA quick_check").fetchone()[0] == "ok"
