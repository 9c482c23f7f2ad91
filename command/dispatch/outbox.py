"""The outbox relay: publishes what devices must hear, and again, until each device itself has confirmed it.

A row's life: open (written in the transaction that decided it), published (QoS 1; a PUBACK only says that the broker
has it), confirmed (the device answered; `apply.py` sets it). The relay owns only the middle: it publishes open rows
in order per person, at most a window's worth unconfirmed a person, and publishes unconfirmed rows again when the
person's device comes online, when the broker came back, and after a growing wait. A row is chosen because it is open,
never because its id or time is higher than a mark, so a transaction that commits late is not overlooked.

Bad cases. Database away: wait and connect again. Broker away: the same; rows stay as they are. Killed between
publishing and noting it: published again, and the device knows the (task, revision) already.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import aiomqtt
import psycopg
from psycopg.rows import tuple_row

from command.dispatch.address import MqttAddress
from command.dispatch.notify import OUTBOX
from command.dispatch.topics import SERVICE, person_of, presence_topic, tasks_topic
from ingest.clock import Clock

log = logging.getLogger(__name__)

WINDOW = 50  # unconfirmed messages a person: bounds what a broker keeps for an absent device
BATCH = 1000  # rows a look
SENDERS = 50  # people served at the same moment
POLL_S = 1.0  # a notification may be lost with its connection
RETRY_FIRST_S = 30.0
RETRY_CAP_S = 600.0
PRESENCE_GRACE_S = 0.5  # what the broker kept for a returning device comes first; then what is still unconfirmed
RECONNECT_S = 1.0


@dataclass(frozen=True)
class _Row:
    outbox_id: UUID
    person_id: str
    body: Any


@dataclass
class RelayCounts:
    """What the relay has done since its start; for the metrics."""

    published: int = 0
    published_again: int = 0
    broker_connects: int = 0
    failures: int = 0


class OutboxRelay:
    """One relay: `await run()` until cancelled. Two at once are wasteful but harmless (devices know what they have)."""

    def __init__(
        self,
        conninfo: str,
        broker: MqttAddress,
        clock: Clock,
        *,
        retry_first_s: float = RETRY_FIRST_S,
        poll_s: float = POLL_S,
        window: int = WINDOW,
    ) -> None:
        self._conninfo = conninfo
        self._address = broker
        self._clock = clock
        self._retry_first_s = retry_first_s
        self._poll_s = poll_s
        self._window = window
        self._rung = asyncio.Event()
        self._offline: set[str] = set()  # people whose device said or willed so; at most one entry an account
        self._returned: dict[str, float] = {}  # person -> monotonic_s when their open rows are to be published again
        self.counts = RelayCounts()
        self.connected = asyncio.Event()  # broker and database both reached

    async def run(self) -> None:
        """Relay for ever; connections that break are made again."""
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen(), name="outbox-listen")
                    group.create_task(self._relay(), name="outbox-relay")
            except* (aiomqtt.MqttError, psycopg.Error, OSError) as errors:
                self.counts.failures += 1
                reason = "; ".join(str(error).strip() for error in _leaves(errors))
                log.warning("outbox relay waits for broker or database", extra={"reason": reason})
            finally:
                self.connected.clear()
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as conn:
            await conn.execute(f"LISTEN {OUTBOX}")
            self._rung.set()
            async for _ in conn.notifies():
                self._rung.set()

    async def _relay(self) -> None:
        async with (
            await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as conn,
            self._address.client(f"{SERVICE}:outbox", clean_session=True) as client,
            asyncio.TaskGroup() as group,
        ):
            self.counts.broker_connects += 1
            self._offline.clear()
            # This broker may have forgotten everything: whatever is unconfirmed is published again.
            await conn.execute("UPDATE outbox SET published_at = NULL WHERE confirmed_at IS NULL")
            group.create_task(self._hear_presence(client), name="outbox-presence")
            self.connected.set()
            while True:
                self._rung.clear()
                await self._publish_again_for_returned(conn)
                while rows := await self._due(conn):
                    await self._publish(conn, client, rows)
                    if len(rows) < BATCH:
                        break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._next_look_s()):
                        await self._rung.wait()

    def _next_look_s(self) -> float:
        now_s = self._clock.monotonic_s()
        soonest_s = min((at_s - now_s for at_s in self._returned.values()), default=self._poll_s)
        return max(0.01, min(self._poll_s, soonest_s))

    async def _hear_presence(self, client: aiomqtt.Client) -> None:
        await client.subscribe(presence_topic("+"), qos=1)
        async for message in client.messages:
            person_id = person_of(str(message.topic))
            if message.payload == b"offline":
                self._offline.add(person_id)
            elif message.payload == b"online":
                self._offline.discard(person_id)
                if not message.retain:
                    self._returned[person_id] = self._clock.monotonic_s() + PRESENCE_GRACE_S
                    self._rung.set()

    async def _publish_again_for_returned(self, conn: psycopg.AsyncConnection[Any]) -> None:
        now_s = self._clock.monotonic_s()
        due = [person_id for person_id, at_s in self._returned.items() if at_s <= now_s]
        if not due:
            return
        await conn.execute(
            "UPDATE outbox SET published_at = NULL WHERE person_id = ANY(%s) AND confirmed_at IS NULL", (due,)
        )
        for person_id in due:
            del self._returned[person_id]

    async def _due(self, conn: psycopg.AsyncConnection[Any]) -> list[_Row]:
        """Rows to publish now, each person's in order, within each person's window."""
        now = self._clock.now()
        async with conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(
                """
                SELECT o.outbox_id, o.person_id, o.body
                FROM people p CROSS JOIN LATERAL (
                    SELECT outbox_id, person_id, body, created_at, published_at, attempts FROM outbox
                    WHERE outbox.person_id = p.person_id AND confirmed_at IS NULL
                    ORDER BY created_at, revision, outbox_id LIMIT %(window)s
                ) o
                WHERE o.published_at IS NULL
                   OR o.published_at > %(now)s::timestamptz + interval '1 minute'  -- the clock was set back
                   OR (NOT o.person_id = ANY(%(offline)s) AND o.published_at <= %(now)s::timestamptz
                       - least(%(cap)s, %(first)s * 2 ^ least(greatest(o.attempts - 1, 0), 20)) * interval '1 second')
                ORDER BY o.created_at, o.outbox_id LIMIT %(batch)s
                """,
                {
                    "window": self._window,
                    "now": now,
                    "offline": sorted(self._offline),
                    "cap": RETRY_CAP_S,
                    "first": self._retry_first_s,
                    "batch": BATCH,
                },
            )
            return [_Row(*row) for row in await cursor.fetchall()]

    async def _publish(self, conn: psycopg.AsyncConnection[Any], client: aiomqtt.Client, rows: Sequence[_Row]) -> None:
        """Publish, people side by side and each one's rows in order, and note what the broker took."""
        by_person: dict[str, list[_Row]] = {}
        for row in rows:
            by_person.setdefault(row.person_id, []).append(row)
        taken: list[UUID] = []
        slots = asyncio.Semaphore(SENDERS)

        async def serve(person_id: str, theirs: list[_Row]) -> None:
            async with slots:
                for row in theirs:
                    body = json.dumps(row.body, ensure_ascii=False, separators=(",", ":"))
                    await client.publish(tasks_topic(person_id), body, qos=1)
                    taken.append(row.outbox_id)

        served = await asyncio.gather(
            *(serve(person_id, theirs) for person_id, theirs in by_person.items()), return_exceptions=True
        )
        await self._note_published(conn, taken, self._clock.now())
        for result in served:
            if isinstance(result, BaseException):
                raise result

    async def _note_published(self, conn: psycopg.AsyncConnection[Any], taken: list[UUID], at: datetime) -> None:
        if not taken:
            return
        async with conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(
                """
                UPDATE outbox SET published_at = %s, attempts = attempts + 1 WHERE outbox_id = ANY(%s)
                RETURNING attempts > 1
                """,
                (at, taken),
            )
            again = sum(1 for row in await cursor.fetchall() if row[0])
        self.counts.published += len(taken)
        self.counts.published_again += again


async def unconfirmed(conn: psycopg.AsyncConnection[Any], older_than: timedelta) -> int:
    """How many messages no device has confirmed for so long; for the page and the metrics."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            "SELECT count(*) FROM outbox WHERE confirmed_at IS NULL AND created_at < now() - %s", (older_than,)
        )
        row = await cursor.fetchone()
        return int(row[0]) if row else 0


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]
