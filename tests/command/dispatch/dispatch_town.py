"""What the dispatch tests are made of: events as the writer stores them, a running dispatch, patrollers' devices."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from command.dispatch.accounts import Accounts
from command.dispatch.address import MqttAddress
from command.dispatch.answers import Answers
from command.dispatch.broker import EmbeddedBroker
from command.dispatch.decide import decide
from command.dispatch.outbox import OutboxRelay
from command.dispatch.patrol import PatrolDevice
from command.dispatch.topics import SERVICE
from ingest.clock import SystemClock
from ingest.event import new_id
from ingest.spool import Spool

GRIDS = 4


@dataclass(frozen=True)
class Opened:
    """A stored event as `decide` reads it."""

    id: UUID
    started_at: datetime
    code: str = "5.6"
    camera_id: str | None = "c-1"
    zone_id: str | None = "yard"
    grid_id: str | None = "g-1"
    village: str | None = "Shangcun"
    lon: float | None = 115.8
    lat: float | None = 38.4


def opened(number: int = 1, at: datetime | None = None, **changes: Any) -> Opened:
    """An event of camera and grid `number`."""
    found = {"camera_id": f"c-{number}", "grid_id": f"g-{number}", **changes}
    return Opened(new_id(), at or datetime.now(UTC), **found)


async def store(conn: psycopg.AsyncConnection[Any], events: list[Opened]) -> None:
    """What the writer does before it asks for a decision."""
    async with conn.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO events (id, started_at, epoch, number, state, code, camera_id, zone_id, priority, updated_at,
                                lon, lat, place_from, grid_id, grid_match)
            VALUES (%s, %s, 1, 1, 'opened', %s, %s, %s, 3, %s, %s, %s, 'camera', %s, 'inside')
            ON CONFLICT (started_at, id) DO NOTHING
            """,
            [
                (e.id, e.started_at, e.code, e.camera_id, e.zone_id, e.started_at, e.lon, e.lat, e.grid_id)
                for e in events
            ],
        )


async def happen(conninfo: str, events: list[Opened], **options: Any) -> None:
    """Store and decide in one transaction, as the writer does."""
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        await store(conn, events)
        await decide(conn, events, **options)


async def rows(conninfo: str, query: str, parameters: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
    """What the database says."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True, row_factory=dict_row) as conn:
        return await (await conn.execute(query, parameters)).fetchall()


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str, timeout_s: float = 20
) -> None:
    """Wait for a condition; fails with `what` when it does not come."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


@dataclass
class Dispatch:
    """A running dispatch: broker, relay, answers; hands out devices and ends everything."""

    conninfo: str
    accounts: Accounts
    broker: EmbeddedBroker | None
    port: int
    spool: Spool
    group: asyncio.TaskGroup
    relay: OutboxRelay = field(init=False)
    answers: Answers = field(init=False)
    shown: dict[str, list[tuple[UUID, int]]] = field(default_factory=dict)
    running: list[asyncio.Task[None]] = field(default_factory=list)

    def address(self, user: str) -> MqttAddress:
        return MqttAddress("127.0.0.1", self.port, user, self.accounts.password(user))

    async def start(self, *, database: str | None = None, retry_first_s: float = 10.0) -> None:
        clock = SystemClock()
        where = database or self.conninfo
        self.relay = OutboxRelay(where, self.address(SERVICE), clock, retry_first_s=retry_first_s)
        self.answers = Answers(where, self.address(SERVICE), self.spool, clock)
        self.running += [self.group.create_task(self.relay.run()), self.group.create_task(self.answers.run())]
        await until(lambda: self.relay.connected.is_set() and self.answers.connected.is_set(), "dispatch runs")

    def device(self, person_id: str, **options: Any) -> PatrolDevice:
        shown = self.shown.setdefault(person_id, [])
        return PatrolDevice(
            self.address(person_id),
            person_id,
            SystemClock(),
            on_task=lambda message: shown.append((message.task_id, message.task_revision)),
            repeat_first_s=0.5,
            **options,
        )

    def switch_on(self, device: PatrolDevice) -> asyncio.Task[None]:
        task = self.group.create_task(device.run())
        self.running.append(task)
        return task

    async def online(self, person_id: str, **options: Any) -> PatrolDevice:
        device = self.device(person_id, **options)
        self.switch_on(device)
        await until(device.connected.is_set, f"{person_id} is online")
        return device


@contextlib.asynccontextmanager
async def running_dispatch(
    conninfo: str, accounts: Accounts, tmp_path: Path, broker: EmbeddedBroker | None, port: int
) -> AsyncIterator[Dispatch]:
    """A `Dispatch` whose tasks all end with the block; call `start` on it."""
    spool = Spool(tmp_path / "answers.spool", reserve_bytes=0)
    try:
        async with asyncio.TaskGroup() as group:
            found = Dispatch(conninfo, accounts, broker, port, spool, group)
            try:
                yield found
            finally:
                for task in found.running:
                    task.cancel()
    finally:
        spool.close()
