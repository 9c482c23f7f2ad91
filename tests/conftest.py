"""Real parts for every test: one embedded PostgreSQL for the session, and a fresh migrated database for each test."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest

from command.store.embedded import EmbeddedPostgres
from command.store.migrate import migrate

# CI tries the same examples each time, so that it fails for what a change did; the long tier looks for new ones.
hypothesis.settings.register_profile("ci", derandomize=True)
hypothesis.settings.register_profile("long")
hypothesis.settings.load_profile("long" if os.environ.get("GRIDWATCH_TEST_LONG") else "ci")

pytest_plugins = ("tests.faults.proxy", "tests.browser")

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder with a short path, open to other accounts: for sockets and for what must not lie below a 0700 one."""
    folder = Path(tempfile.mkdtemp(prefix="gw-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(short_tmp: Path) -> Iterator[EmbeddedPostgres]:
    """The session's server. Without fsync: tests about durability start a server of their own."""
    quick = {"fsync": "off", "full_page_writes": "off", "wal_level": "minimal", "max_wal_senders": "0"}
    quick |= {"autovacuum": "off", "file_copy_method": "clone", "shared_buffers": "64MB", "max_connections": "100"}
    server = EmbeddedPostgres(short_tmp / "pg", short_tmp / "run", settings=quick)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _template(postgres_server: EmbeddedPostgres) -> str:
    """A migrated database that every test's own is a copy of."""
    with psycopg.connect(postgres_server.conninfo, autocommit=True) as connection:
        connection.execute("CREATE DATABASE template_gridwatch")
    migrate(psycopg.conninfo.make_conninfo(postgres_server.conninfo, dbname="template_gridwatch"))
    return "template_gridwatch"


@pytest.fixture
def empty_postgres(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """Connection string of a fresh database without any schema."""
    yield from _database(postgres_server, "template0")


@pytest.fixture
def postgres(postgres_server: EmbeddedPostgres, _template: str) -> Iterator[str]:
    """Connection string of a fresh, migrated, empty database."""
    yield from _database(postgres_server, _template)


def _database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        yield psycopg.conninfo.make_conninfo(server.conninfo, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _stopped_home(short_tmp: Path) -> Path:
    """A home whose database was created and stopped; a copy of it starts ten times faster than a new one."""
    home = short_tmp / "stopped"
    server = EmbeddedPostgres.for_home(home)
    server.start()
    server.stop()
    return home


@pytest.fixture
def own_postgres(short_tmp: Path, _stopped_home: Path) -> Iterator[Callable[..., EmbeddedPostgres]]:
    """Makes servers with durable settings that a test may kill; all are ended and removed afterwards.

    `own_postgres(**settings)`: over a created database; `own_postgres(empty=True)`: over nothing yet.
    """
    made: list[EmbeddedPostgres] = []

    def make(*, empty: bool = False, **settings: str) -> EmbeddedPostgres:
        home = short_tmp / f"own{next(_numbers)}"
        if not empty:
            subprocess.run(["cp", "-a", _stopped_home, home], check=True)
        made.append(EmbeddedPostgres(home / "pg", home / "run", settings={"shared_buffers": "32MB", **settings}))
        return made[-1]

    yield make
    for server in made:
        server.stop()
        shutil.rmtree(server.data_dir.parent, ignore_errors=True)
