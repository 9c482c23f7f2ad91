"""A small town in a real database, a real broker with real accounts, and the running dispatch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from command.dispatch.accounts import Accounts
from command.dispatch.broker import EmbeddedBroker
from tests.command.dispatch.dispatch_town import GRIDS, Dispatch, running_dispatch


@pytest.fixture
async def town(postgres: str) -> str:
    """Connection string of a database with four grids (patroller p-N, leader l-N) and a camera in each."""
    async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as conn:
        for n in range(1, GRIDS + 1):
            await conn.execute(
                "INSERT INTO cameras (camera_id, name, village, lon, lat) VALUES (%s, %s, 'Shangcun', 115.8, 38.4)",
                (f"c-{n}", f"Gate {n}"),
            )
            for role, person_id in (("patroller", f"p-{n}"), ("leader", f"l-{n}")):
                await conn.execute("INSERT INTO people VALUES (%s, %s)", (person_id, person_id))
                await conn.execute("INSERT INTO grid_roles VALUES (%s, %s, %s)", (f"g-{n}", role, person_id))
    return postgres


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    """Accounts of everybody in the town."""
    found = Accounts(tmp_path / "secrets")
    found.ensure([f"{letter}-{n}" for letter in "pl" for n in range(1, GRIDS + 1)])
    return found


@pytest.fixture
async def dispatch(town: str, accounts: Accounts, tmp_path: Path) -> AsyncIterator[Dispatch]:
    """The whole dispatch on the embedded broker."""
    broker = EmbeddedBroker("127.0.0.1", 0, accounts.passwd_path)
    port = await broker.start()
    try:
        async with running_dispatch(town, accounts, tmp_path, broker, port) as found:
            await found.start()
            yield found
    finally:
        await broker.stop()
