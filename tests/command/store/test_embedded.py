"""The embedded server: who gets in, what survives, what is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from command.store import pg_binaries
from command.store.embedded import EmbeddedPostgres, _servers_over, running_conninfo
from command.store.pg_account import Account
from command.store.pg_binaries import binaries_for, installed_binaries
from ingest.errors import GridwatchError

MakeServer = Callable[..., EmbeddedPostgres]


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "condition not met in time"
        time.sleep(0.02)


def one(conninfo: str, query: str) -> object:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def test_only_the_password_opens_it(own_postgres: MakeServer) -> None:
    server = own_postgres()
    conninfo = server.start()
    assert one(conninfo, "SHOW listen_addresses") == ""
    assert one(conninfo, "SHOW password_encryption") == "scram-sha-256"
    assert server.passfile.stat().st_mode & 0o777 == 0o600
    host = psycopg.conninfo.conninfo_to_dict(conninfo)["host"]
    assert Path(str(host)).stat().st_mode & 0o777 == 0o700
    assert "password" not in conninfo.replace("passfile", "")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(psycopg.conninfo.make_conninfo(conninfo, passfile="/nowhere", password="guess"))
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(psycopg.conninfo.make_conninfo(conninfo, passfile="/nowhere"))


def test_the_server_is_never_root_nor_nobody(own_postgres: MakeServer) -> None:
    server = own_postgres()
    server.start()
    assert server.pid is not None
    process = psutil.Process(server.pid)
    assert process.uids().real not in (0, 65534)
    if os.geteuid() == 0:
        assert process.uids().real == server.data_dir.stat().st_uid != 0
        assert os.getgroups() == [0] or process.gids().real != 0


def test_killed_server_comes_back_with_what_was_committed(own_postgres: MakeServer) -> None:
    server = own_postgres()
    conninfo = server.start()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n integer)")
        connection.execute("INSERT INTO kept VALUES (1)")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.alive())
    assert server.start() == conninfo
    assert one(conninfo, "SELECT count(*) FROM kept") == 1


async def test_keep_restarts_a_killed_server_at_the_same_address(own_postgres: MakeServer) -> None:
    server = own_postgres()
    conninfo = await asyncio.to_thread(server.start)
    keeper = asyncio.create_task(server.keep(poll_s=0.05))
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def answers() -> bool:
        try:
            return server.pid not in (None, first) and one(conninfo, "SELECT 1") == 1
        except psycopg.OperationalError:
            return False

    await asyncio.to_thread(until, answers)
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)


def test_it_lives_although_the_thread_that_started_it_has_ended(own_postgres: MakeServer) -> None:
    server = own_postgres()
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    assert server.alive()
    assert one(server.conninfo, "SELECT 1") == 1


PARENT = """
import sys, time, pathlib
from command.store import pg_binaries
from command.store.embedded import EmbeddedPostgres
server = EmbeddedPostgres.for_home(pathlib.Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


def start_parent(home: Path) -> tuple[subprocess.Popen[str], int]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(home)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def test_killed_parent_takes_the_server_along_and_the_next_start_works(short_tmp: Path) -> None:
    home = short_tmp / "killed_parent"
    parent, _ = start_parent(home)
    parent.kill()
    parent.wait()
    until(lambda: not _servers_over(home / "pg"))
    server = EmbeddedPostgres.for_home(home)
    try:
        assert one(server.start(), "SELECT 1") == 1
    finally:
        server.stop()


def test_orphaned_server_is_ended_before_the_next_start(short_tmp: Path) -> None:
    home = short_tmp / "orphan"
    parent, pid = start_parent(home)
    os.kill(pid, signal.SIGSTOP)  # it cannot hear the kernel's order to end
    parent.kill()
    parent.wait()
    assert _servers_over(home / "pg")
    os.kill(pid, signal.SIGCONT)
    server = EmbeddedPostgres.for_home(home)
    try:
        assert one(server.start(), "SELECT 1") == 1
        assert server.pid != pid
    finally:
        server.stop()


def test_pid_file_that_names_somebody_else_is_no_hindrance(own_postgres: MakeServer) -> None:
    server = own_postgres()
    server.start()
    server.stop()
    (server.data_dir / "postmaster.pid").write_text(f"{os.getppid()}\n{server.data_dir}\n0\n5432\n/tmp/x\n\n 1 1\n")
    assert one(server.start(), "SELECT 1") == 1


def test_second_gridwatch_over_the_same_data_is_refused(own_postgres: MakeServer) -> None:
    server = own_postgres()
    conninfo = server.start()
    home = server.data_dir.parent
    with pytest.raises(GridwatchError, match=r"store\.home_in_use"):
        EmbeddedPostgres.for_home(home).start()
    assert running_conninfo(home) == conninfo
    server.stop()
    assert running_conninfo(home) is None


def test_data_of_another_major_version_is_refused_untouched(own_postgres: MakeServer) -> None:
    server = own_postgres(empty=True)
    server.data_dir.mkdir(parents=True)
    (server.data_dir / "PG_VERSION").write_text("17\n")
    with pytest.raises(GridwatchError, match=r"store\.version_differs") as refused:
        server.start()
    assert "PostgreSQL 17" in refused.value.sentence("zh")
    assert [entry.name for entry in server.data_dir.iterdir()] == ["PG_VERSION"]


def test_foreign_files_in_the_data_folder_are_not_swept_away(own_postgres: MakeServer) -> None:
    server = own_postgres(empty=True)
    server.data_dir.mkdir(parents=True)
    (server.data_dir / "letter.txt").write_text("mine")
    with pytest.raises(GridwatchError, match=r"store\.not_empty"):
        server.start()
    assert (server.data_dir / "letter.txt").read_text() == "mine"


def test_half_made_data_folder_of_a_killed_initdb_is_made_anew(own_postgres: MakeServer) -> None:
    server = own_postgres(empty=True)
    half = server.data_dir.with_name("pg.new")
    half.mkdir(parents=True)
    (half / "rubbish").write_text("x")
    assert one(server.start(), "SELECT 1") == 1
    assert not half.exists()


def test_home_below_a_closed_folder(tmp_path: Path) -> None:
    """As root below /root, where the server's own account may not enter, and deeper than a socket path may be."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres.for_home(closed / ("deep" * 30))
    try:
        conninfo = server.start()
        assert one(conninfo, "SELECT 1") == 1
        assert closed.stat().st_mode & 0o777 == 0o700
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not server.alive())
        assert one(server.start(), "SELECT 1") == 1
    finally:
        server.stop()


def test_programs_in_a_closed_folder_are_copied_once_and_run(
    tmp_path: Path, own_postgres: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment below a 0700 home: the copy, bundled libraries and all, makes and serves a database."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    installed = installed_binaries()
    shutil.copytree(installed.parent, closed / installed.parent.name, symlinks=True)
    libraries = installed.parent.with_name(installed.parent.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    monkeypatch.setattr(pg_binaries, "installed_binaries", lambda: closed / installed.parent.name / installed.name)
    server = own_postgres(empty=True)
    home = server.data_dir.parent
    stranger = Account(28080, 28080)
    copied = binaries_for(stranger, home)
    assert copied.is_relative_to(home / "pgbin")
    assert stranger.can_execute(copied / "bin" / "postgres")
    assert binaries_for(stranger, home) == copied
    shutil.rmtree(closed)
    monkeypatch.setattr(pg_binaries, "installed_binaries", lambda: copied)
    assert one(server.start(), "SELECT 1") == 1


def test_account_of_existing_data_is_kept(tmp_path: Path) -> None:
    account = Account.for_data(tmp_path / "none")
    if os.geteuid() == 0:
        assert account.uid not in (None, 0, 65534)
        owned = tmp_path / "owned"
        owned.mkdir()
        os.chown(owned, 4321, 4321)
        assert Account.for_data(owned) == Account(4321, 4321)
    else:
        assert account == Account(None, None)
