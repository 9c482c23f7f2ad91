"""Migrations: in order, once, by one at a time; a database that is newer or other than ours is left alone."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from command.cli import gridwatch
from command.store.migrate import migrate, migrations
from ingest.errors import GridwatchError


def tables(conninfo: str) -> set[str]:
    with psycopg.connect(conninfo) as connection:
        return {
            row[0]
            for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (n integer);")
    (tmp_path / "0002_second.sql").write_text("CREATE TABLE second (n integer); INSERT INTO second VALUES (1);")
    return tmp_path


def test_the_program_s_own_apply_once(empty_postgres: str) -> None:
    names = [migration.name for migration in migrations()]
    assert [migration.name for migration in migrate(empty_postgres, dry_run=True)] == names
    assert tables(empty_postgres) == set()
    assert [migration.name for migration in migrate(empty_postgres)] == names
    assert {"events", "cases", "tasks", "outbox", "dead_letters", "schema_migrations"} <= tables(empty_postgres)
    assert migrate(empty_postgres) == []


def test_only_what_is_missing_is_applied(empty_postgres: str, folder: Path) -> None:
    (folder / "0002_second.sql").rename(folder / "later")
    migrate(empty_postgres, folder=folder)
    (folder / "later").rename(folder / "0002_second.sql")
    assert [migration.number for migration in migrate(empty_postgres, folder=folder)] == [2]


def test_a_failing_one_leaves_nothing_behind_and_those_before_it_stay(empty_postgres: str, folder: Path) -> None:
    (folder / "0003_third.sql").write_text("CREATE TABLE third (n integer); SELECT 1/0;")
    with pytest.raises(GridwatchError, match=r"store\.migration_failed.*0003_third.*division by zero"):
        migrate(empty_postgres, folder=folder)
    assert tables(empty_postgres) == {"first", "second", "schema_migrations"}
    (folder / "0003_third.sql").write_text("CREATE TABLE third (n integer);")
    assert len(migrate(empty_postgres, folder=folder)) == 1


def test_newer_database_is_refused(empty_postgres: str, folder: Path) -> None:
    migrate(empty_postgres, folder=folder)
    (folder / "0002_second.sql").unlink()
    with pytest.raises(GridwatchError, match=r"store\.newer_database.*number 2"):
        migrate(empty_postgres, folder=folder)


def test_edited_file_is_refused_but_line_endings_do_not_count(empty_postgres: str, folder: Path) -> None:
    migrate(empty_postgres, folder=folder)
    (folder / "0001_first.sql").write_bytes(b"CREATE TABLE first (n integer);")
    assert migrate(empty_postgres, folder=folder) == []
    (folder / "0001_first.sql").write_text("CREATE TABLE first (n bigint);")
    with pytest.raises(GridwatchError, match=r"store\.changed_migration.*0001_first"):
        migrate(empty_postgres, folder=folder)


@pytest.mark.parametrize("name", ["0004_gap.sql", "0002_twice.sql", "3_short.sql", "0003_Upper.sql"])
def test_badly_numbered_files_are_a_fault_of_the_program(folder: Path, name: str) -> None:
    (folder / name).write_text("SELECT 1;")
    with pytest.raises(ValueError, match=r"numbered|expected"):
        migrations(folder)


def test_two_programs_that_start_at_once(empty_postgres: str, folder: Path) -> None:
    (folder / "0001_first.sql").write_text("SELECT pg_sleep(0.2); CREATE TABLE first (n integer);")
    applied: list[int] = []
    threads = [
        threading.Thread(target=lambda: applied.append(len(migrate(empty_postgres, folder=folder)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [0, 2]


def test_unreachable_database_is_told_in_a_sentence() -> None:
    with pytest.raises(GridwatchError, match=r"store\.unreachable_database"):
        migrate("host=127.0.0.1 port=1 dbname=x")


def test_command(empty_postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDWATCH_DATABASE_URL", empty_postgres)
    runner = CliRunner()
    shown = runner.invoke(gridwatch, ["migrate", "--dry-run"])
    assert shown.exit_code == 0
    assert "0001_first.sql" in shown.output
    assert tables(empty_postgres) == set()
    assert "0001_first.sql" in runner.invoke(gridwatch, ["migrate"]).output
    assert "events" in tables(empty_postgres)
    again = runner.invoke(gridwatch, ["migrate"])
    assert (again.exit_code, "0001_first" in again.output) == (0, False)


def test_command_with_the_embedded_server(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIDWATCH_DATABASE_URL", raising=False)
    monkeypatch.setenv("GRIDWATCH_HOME", str(short_tmp / "cli"))
    done = CliRunner().invoke(gridwatch, ["migrate"])
    assert (done.exit_code, "0001_first.sql" in done.output) == (0, True)
    assert not (short_tmp / "cli" / "pg" / "postmaster.pid").exists(), "what it started is gone"
