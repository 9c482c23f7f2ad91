"""The schema's history: numbered SQL files, applied in order, forward only, each in a transaction of its own.

The database remembers number, name and checksum of what was applied. Two programs that start at once are served one
after the other by an advisory lock, which ends with its session, so a killed migration blocks nobody. Refused with a
sentence and untouched: a database newer than this program, an applied file that was edited, a file that is missing.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import psycopg

from ingest.errors import GridwatchError

log = logging.getLogger(__name__)

_LOCK = 0x67726964_6D696772  # one key for all versions of the program
_LOCK_WAIT_S = 120
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number      integer PRIMARY KEY,
    name        text NOT NULL,
    sha256      text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    program     text NOT NULL                        -- the version that applied it
)
"""


@dataclass(frozen=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Checksum of the text; line endings do not count."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()


def migrations(folder: Path | None = None) -> list[Migration]:
    """The files of `folder` (default: the program's own), numbered from 1 without a gap.

    Raises:
        ValueError: a gap, a double number or a badly named file; a fault of the program, found by its tests.
    """
    found = []
    for entry in (folder or files("command.store") / "migrations").iterdir():
        if entry.name.endswith(".sql"):
            name = _NAME.fullmatch(entry.name)
            if name is None:
                raise ValueError(f"{entry.name}: expected NNNN_lower_case.sql")
            found.append(Migration(int(name[1]), entry.name, entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered 1..{len(found)}")
    return found


def migrate(conninfo: str, *, dry_run: bool = False, folder: Path | None = None) -> list[Migration]:
    """Bring a database to the newest schema; returns what was applied, or with `dry_run` what would be.

    Raises:
        GridwatchError: `store.unreachable_database`, `store.newer_database`, `store.changed_migration`,
            `store.missing_migration`, `store.migration_failed`, `store.migration_locked`.
    """
    ours = migrations(folder)
    try:
        connection = psycopg.connect(conninfo, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise GridwatchError("store.unreachable_database", reason=str(error).strip()) from error
    with connection:
        if dry_run:
            return _pending(connection, ours)
        connection.execute(f"SET lock_timeout = '{_LOCK_WAIT_S}s'")
        try:
            connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        except psycopg.errors.LockNotAvailable as error:
            raise GridwatchError("store.migration_locked", waited_s=_LOCK_WAIT_S) from error
        pending = _pending(connection, ours)
        if pending:
            connection.execute(_TABLE)
        for migration in pending:
            _apply(connection, migration)
        return pending


def _apply(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    try:
        with connection.transaction():
            connection.execute(migration.sql.encode())
            connection.execute(
                "INSERT INTO schema_migrations (number, name, sha256, program) VALUES (%s, %s, %s, %s)",
                (migration.number, migration.name, migration.sha256, version("gridwatch")),
            )
    except psycopg.Error as error:
        raise GridwatchError("store.migration_failed", name=migration.name, reason=str(error).strip()) from error
    log.info("migration applied", extra={"migration": migration.name})


def _pending(connection: psycopg.Connection[tuple[object, ...]], ours: Sequence[Migration]) -> list[Migration]:
    exists = connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
    if exists is None or not exists[0]:
        return list(ours)
    known = {migration.number: migration for migration in ours}
    applied = connection.execute("SELECT number, name, sha256 FROM schema_migrations ORDER BY number").fetchall()
    for number, name, sha256 in applied:
        assert isinstance(number, int)
        if number > len(ours):
            raise GridwatchError("store.newer_database", database=applied[-1][0], program=len(ours))
        if number not in known:
            raise GridwatchError("store.missing_migration", number=number, name=name)
        if known[number].sha256 != sha256:
            raise GridwatchError("store.changed_migration", name=name)
    done = {number for number, _, _ in applied}
    return [migration for migration in ours if migration.number not in done]
