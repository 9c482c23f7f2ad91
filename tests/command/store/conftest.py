"""A small town, events for it, and a running writer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from command.dispatch.decide import decide
from command.grids import Grids
from command.store.rows import Decide
from command.store.town import Town, sync_town
from command.store.writer import SpoolWriter
from ingest.event import Event, new_id
from ingest.spool import Bell, Spool
from ingest.streams import Streams

STARTED = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


def make_streams(names: Sequence[str] = ("c-1", "c-2")) -> Streams:
    """Cameras in a row, 0.01 degrees apart; the n-th stands in the n-th grid."""
    return Streams.model_validate(
        {
            "cameras": [
                {
                    "id": name,
                    "name": f"Camera {name}",
                    "village": "East",
                    "lon": 116.005 + 0.01 * number,
                    "lat": 38.405,
                    "main": f"rtsp://10.0.0.{number + 1}/main",
                    "zones": [{"id": "door", "name": "Door", "polygon": [[0, 0], [1, 0], [1, 1]]}],
                }
                for number, name in enumerate(names)
            ]
        }
    )


def make_grids(count: int = 2, *, shift: float = 0.0, first_patroller: str = "patroller-0") -> Grids:
    """Squares of 0.01 degrees in a row."""

    def holder(role: str, number: int) -> dict[str, str]:
        person = first_patroller if role == "patroller" and number == 0 else f"{role}-{number}"
        return {"person_id": person, "name": f"Name of {person}"}

    roles = ("patroller", "leader", "supervisor", "police_officer", "volunteer")
    features = []
    for number in range(count):
        west, south = 116.0 + 0.01 * number, 38.4 - shift
        ring = [(west, south), (west + 0.01, south), (west + 0.01, 38.41), (west, 38.41), (west, south)]
        features.append(
            {
                "type": "Feature",
                "properties": {
                    "grid_id": f"g-{number}",
                    "name": f"Grid {number}",
                    "village": "East",
                    "roles": {role: holder(role, number) for role in roles},
                },
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
        )
    return Grids.model_validate({"type": "FeatureCollection", "features": features})


def make_event(number: int = 0, **changes: Any) -> Event:
    """An opened event at camera c-1, `number` seconds after STARTED."""
    given: dict[str, Any] = {
        "id": new_id(),
        "epoch": 1,
        "number": number,
        "state": "opened",
        "code": "5.6",
        "camera_id": "c-1",
        "zone_id": "door",
        "started_at": STARTED + timedelta(seconds=number),
        "updated_at": STARTED + timedelta(seconds=number),
    }
    return Event(**{**given, **changes})


def then(event: Event, state: str, **changes: Any) -> Event:
    """A later statement about the same event."""
    return event.model_copy(update={"number": event.number + 1, "state": state, **changes})


async def eventually(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait for a condition (a plain call, run in a thread)."""
    deadline_s = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline_s, "condition not met in time"
        await asyncio.sleep(0.02)


class Store:
    """A database with the small town in it, one spool, and writers on demand."""

    eventually = staticmethod(eventually)

    def __init__(self, conninfo: str, folder: Path) -> None:
        self.conninfo = conninfo
        self.folder = folder
        self.town = Town(make_streams(), make_grids())
        self.spool = Spool(folder / "w0.spool", bell=Bell(folder / "bell"), reserve_bytes=0)

    def put(self, *events: Event) -> None:
        self.spool.put_many([("event", event.model_dump_json()) for event in events])

    def rows(self, query: str = "SELECT * FROM events ORDER BY started_at, id") -> list[dict[str, Any]]:
        with psycopg.connect(self.conninfo, row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute(query.encode()).fetchall()

    def ids(self) -> set[UUID]:
        return {row["id"] for row in self.rows("SELECT id FROM events")}

    async def sync(self) -> None:
        async with await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True) as connection:
            await sync_town(connection, make_streams(), make_grids())

    @asynccontextmanager
    async def writing(
        self, *, through: str | None = None, decide: Decide = decide, **options: Any
    ) -> AsyncIterator[SpoolWriter]:
        """A running writer; `through` is the conninfo that it uses."""
        writer = SpoolWriter(
            through or self.conninfo, self.folder, self.town, decide, bell=Bell(self.folder / "bell"), **options
        )
        task = asyncio.create_task(writer.run())
        try:
            yield writer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled(), "the writer must not end by itself"

    async def drained(self, timeout_s: float = 20.0) -> None:
        await eventually(lambda: self.spool.count == 0, timeout_s)


@pytest.fixture(name="make_event")
def _make_event() -> Callable[..., Event]:
    return make_event


@pytest.fixture(name="then")
def _then() -> Callable[..., Event]:
    return then


@pytest.fixture
def town() -> Town:
    """Two cameras in two grids."""
    return Town(make_streams(), make_grids())


@pytest.fixture(name="make_grids")
def _make_grids() -> Callable[..., Grids]:
    return make_grids


@pytest.fixture(name="make_streams")
def _make_streams() -> Callable[..., Streams]:
    return make_streams


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    """`make_store(conninfo)`."""
    made: list[Store] = []

    def make(conninfo: str) -> Store:
        made.append(Store(conninfo, tmp_path / f"spool{len(made)}"))
        return made[-1]

    yield make
    for store in made:
        store.spool.close()


@pytest.fixture
async def store(postgres: str, make_store: Callable[[str], Store]) -> Store:
    """The town in a fresh database."""
    made = make_store(postgres)
    await made.sync()
    return made
