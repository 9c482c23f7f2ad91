"""From the spools to the database: the writer drains every spool file of a folder, a batch is one transaction.

    read a batch -> fold statements by event -> place them -> COPY, upsert, cases and tasks, notifications -> commit
    -> forget the rows

Rows are forgotten only after the commit, and storing them again changes nothing, so a death at any point between costs
a repetition. Database away, slow, cut off after the commit but before the answer: the same batch is tried again with
growing waits, for ever. A row that the database itself refuses goes to `dead_letters` with its reason; it is found by
halving the batch, and the rest of the batch is stored. An event whose case decision fails is stored without a case, and
the dead letter says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psycopg
from pydantic import ValidationError

from command.store import event_rows
from command.store.event_rows import newer, store_events
from command.store.pool import bounded
from command.store.rows import Decide, StoredEvent
from command.store.town import Town
from ingest.clock import Clock, SystemClock
from ingest.errors import GridwatchError
from ingest.event import Event
from ingest.spool import SUFFIX, Bell, Spool

log = logging.getLogger(__name__)

KIND = "event"
CHANGES = "gridwatch_changes"
OUTBOX = "gridwatch_outbox"

BATCH_ROWS = 2000
_FEWEST_ROWS = 50
_POLL_S = 0.5
_WAIT_S = (0.05, 2.0)  # first and longest wait between two tries
_UNSURE_TRIES = 5
_NOTICE_CHANGES = 40  # a change has about 150 bytes; PostgreSQL refuses a payload of 8000 bytes
_TOLD_CHANGES = 400  # above that one notice says "read again"

Fault = Literal["database", "unsure", "row"]


class _Place(NamedTuple):
    """A row's place in its spool, and the row."""

    spool: str
    seq: int
    body: str


@dataclass
class _Unit:
    """Statements about one event in the order of the spool; `event` is the one that wins."""

    statements: list[tuple[_Place, StoredEvent]]

    @property
    def event(self) -> StoredEvent:
        winner = self.statements[0][1]
        for _, stored in self.statements[1:]:
            if newer(stored.event, winner.event):
                winner = stored
        return winner


@dataclass
class _Batch:
    units: list[_Unit]
    dead: list[tuple[_Place, str]]
    through: dict[Path, int]
    refused: int
    superseded: int

    @property
    def rows(self) -> int:
        return sum(len(unit.statements) for unit in self.units) + len(self.dead)


@dataclass
class WriterCounts:
    """What became of statements since the start; for the metrics. A batch that is tried again counts once."""

    batches: int = 0
    new: int = 0
    changed: int = 0
    superseded: int = 0  # a later statement of the same batch won
    stale: int = 0  # seen before, or overtaken
    refused: int = 0  # came after the closing
    dead: int = 0
    tries_failed: int = 0


@dataclass
class _Outcome:
    new: list[StoredEvent] = field(default_factory=list)
    changed: list[StoredEvent] = field(default_factory=list)
    refused: int = 0
    stale: int = 0
    dead: list[tuple[_Place, str]] = field(default_factory=list)

    def add(self, other: _Outcome) -> None:
        self.new += other.new
        self.changed += other.changed
        self.refused += other.refused
        self.stale += other.stale
        self.dead += other.dead


class SpoolWriter:
    """Drains `folder`: `await run()` until cancelled. The one reader of event rows in its files.

    `town` may be replaced at any time; the next batch uses it. `answer_timeout_s` is how long the server
    may be silent before the connection counts as dead (statements end at half of it).
    """

    def __init__(
        self,
        conninfo: str,
        folder: Path,
        town: Town,
        decide: Decide,
        *,
        bell: Bell | None = None,
        clock: Clock | None = None,
        batch_rows: int = BATCH_ROWS,
        answer_timeout_s: float = 30.0,
    ) -> None:
        self.folder = folder
        self.town = town
        self.counts = WriterCounts()
        self.connected = False
        self.last_error: str | None = None
        self._conninfo = bounded(conninfo, answer_timeout_s / 2, "gridwatch writer")
        self._decide = decide
        self._bell = bell
        self._clock = clock or SystemClock()
        self._batch_rows = batch_rows
        self._rows_now = batch_rows
        self._tries = 0  # failed ones since the last commit
        self._deadline = _Deadline(answer_timeout_s)
        self._spools: dict[Path, Spool] = {}
        self._conn: psycopg.AsyncConnection[Any] | None = None

    async def run(self) -> None:
        """Drain for ever; ends only by cancellation, with nothing half done."""
        if self._bell is not None:
            self._bell.listen()
        try:
            while True:
                batch = await self._read()
                if batch is None:
                    await self._pause()
                    continue
                if await self._store(batch):
                    await self._forget(batch)
        finally:
            await self._disconnect()
            for spool in self._spools.values():
                spool.close()
            self._spools.clear()
            if self._bell is not None:
                self._bell.close()

    def depths(self) -> list[tuple[str, int, int]]:
        """(file name, waiting rows, bytes) of every spool; blocks for a moment."""
        return [(path.name, spool.count, spool.bytes) for path, spool in list(self._spools.items())]

    async def _pause(self) -> None:
        if self._bell is not None:
            await self._bell.wait(_POLL_S)
        else:
            await asyncio.sleep(_POLL_S / 5)

    # ---- spools to batch

    async def _read(self) -> _Batch | None:
        return await asyncio.to_thread(self._read_batch)

    def _read_batch(self) -> _Batch | None:
        """The oldest rows of every file, fairly shared. A file that cannot be read is left for the next time."""
        paths = sorted(self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []
        if not paths:
            return None
        share = max(1, self._rows_now // len(paths))
        for path in self._spools.keys() - set(paths):
            self._spools.pop(path).close()
        places: list[_Place] = []
        through: dict[Path, int] = {}
        for path in paths:
            with _said(path):
                spool = self._spools.get(path) or self._spools.setdefault(path, Spool(path))
                rows = spool.read(share, kind=KIND)
                if rows:
                    name = spool.id
                    places += [_Place(name, row.seq, row.body) for row in rows]
                    through[path] = rows[-1].seq
        if not places:
            return None
        return self._fold(places, through)

    def _fold(self, places: Sequence[_Place], through: dict[Path, int]) -> _Batch:
        dead: list[tuple[_Place, str]] = []
        read: list[tuple[_Place, Event]] = []
        for place in places:
            try:
                read.append((place, Event.model_validate_json(place.body)))
            except ValidationError as error:
                dead.append((place, _reason(error)))
        units: dict[object, _Unit] = {}
        placed = self.town.place([event for _, event in read])
        refused = superseded = 0
        for (place, event), stored in zip(read, placed, strict=True):
            unit = units.get(event.id)
            if unit is None:
                units[event.id] = _Unit([(place, stored)])
                continue
            winner = unit.event.event
            if winner.state == "closed" and event.epoch == winner.epoch and event.number > winner.number:
                refused += 1
            else:
                superseded += 1
            unit.statements.append((place, stored))
        return _Batch(list(units.values()), dead, through, refused, superseded)

    async def _forget(self, batch: _Batch) -> None:
        def forget() -> None:
            for path, seq in batch.through.items():
                with _said(path):
                    self._spools[path].remove_through(seq, KIND)

        await asyncio.to_thread(forget)

    # ---- batch to database

    async def _store(self, batch: _Batch) -> bool:
        """One try; False after waiting, when the rows are to be read again (fewer of them if the database is slow)."""
        try:
            conn = await self._connect()
            with self._deadline.over(conn):
                outcome = await self._transaction(conn, batch, give_up=self._tries >= _UNSURE_TRIES)
        except Exception as error:
            await self._failed(error)
            return False
        if self._tries:
            log.info("batches are stored again", extra={"tries": self._tries})
        self.connected, self.last_error, self._tries = True, None, 0
        self._rows_now = min(self._batch_rows, self._rows_now * 2)
        self._count(batch, outcome)
        return True

    async def _transaction(self, conn: psycopg.AsyncConnection[Any], batch: _Batch, give_up: bool) -> _Outcome:
        try:
            if not give_up:
                async with conn.transaction():
                    outcome = await self._write(conn, batch.units)
                    await self._close_batch(conn, batch, outcome)
                return outcome
        except Exception as error:
            if fault_of(error) != "row":
                raise
        async with conn.transaction():
            outcome = await self._halve(conn, batch.units, give_up)
            await self._close_batch(conn, batch, outcome)
        return outcome

    async def _write(self, conn: psycopg.AsyncConnection[Any], units: Sequence[_Unit], decide: bool = True) -> _Outcome:
        if not units:
            return _Outcome()
        self._deadline.again()
        stored = await store_events(conn, [unit.event for unit in units])
        if stored.new and decide:
            try:
                await self._decide(conn, stored.new)
            except psycopg.Error:
                raise
            except Exception as error:
                raise _DecisionError(_reason(error)) from error
        return _Outcome(stored.new, stored.changed, stored.refused, stored.stale)

    async def _halve(self, conn: psycopg.AsyncConnection[Any], units: Sequence[_Unit], give_up: bool) -> _Outcome:
        """Store what can be stored of `units`; the others come back as dead letters."""
        try:
            async with conn.transaction():
                return await self._write(conn, units)
        except Exception as error:
            fault = fault_of(error)
            if fault == "database" or (fault == "unsure" and not give_up):
                raise
            why = error
        if len(units) > 1:
            middle = len(units) // 2
            outcome = await self._halve(conn, units[:middle], give_up)
            outcome.add(await self._halve(conn, units[middle:], give_up))
            return outcome
        return await self._bury(conn, units[0], why, give_up)

    async def _bury(self, conn: psycopg.AsyncConnection[Any], unit: _Unit, why: Exception, give_up: bool) -> _Outcome:
        """One event that cannot be stored as it is: its statements one by one, then without a case, then not at all."""
        if len(unit.statements) > 1:
            outcome = _Outcome()
            for statement in unit.statements:
                outcome.add(await self._halve(conn, [_Unit([statement])], give_up))
            return outcome
        place = unit.statements[0][0]
        try:
            async with conn.transaction():
                outcome = await self._write(conn, [unit], decide=False)
                outcome.dead.append((place, f"stored without a case: {_reason(why)}"))
                return outcome
        except Exception as error:
            if fault_of(error) == "database":
                raise
            return _Outcome(dead=[(place, _reason(why))])

    async def _close_batch(self, conn: psycopg.AsyncConnection[Any], batch: _Batch, outcome: _Outcome) -> None:
        """What belongs into the same transaction: dead letters and the notifications."""
        if dead := [*batch.dead, *outcome.dead]:
            async with conn.cursor() as cursor:
                await cursor.executemany(
                    "INSERT INTO dead_letters (spool, seq, kind, body, reason) VALUES (%s, %s, %s, %s, %s)"
                    " ON CONFLICT (spool, seq) DO NOTHING",
                    [(place.spool, place.seq, KIND, _storable(place.body), _storable(why)) for place, why in dead],
                )
        changed = [*outcome.new, *outcome.changed]
        for payload in _notices(changed):
            await conn.execute("SELECT pg_notify(%s, %s)", (CHANGES, payload))
        if outcome.new:
            await conn.execute("SELECT pg_notify(%s, '')", (OUTBOX,))

    def _count(self, batch: _Batch, outcome: _Outcome) -> None:
        counts = self.counts
        counts.batches += 1
        counts.new += len(outcome.new)
        counts.changed += len(outcome.changed)
        counts.superseded += batch.superseded
        counts.refused += batch.refused + outcome.refused
        counts.stale += outcome.stale
        counts.dead += len(batch.dead) + len(outcome.dead)
        for place, why in [*batch.dead, *outcome.dead]:
            log.error("row set aside as a dead letter", extra={"spool": place.spool, "seq": place.seq, "reason": why})

    # ---- the connection

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        if self._conn is None:
            conn = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
            try:
                with self._deadline.over(conn):
                    await event_rows.prepare(conn)
            except BaseException:
                await conn.close()
                raise
            self._conn = conn
        return self._conn

    async def _disconnect(self) -> None:
        if self._conn is not None:
            conn, self._conn = self._conn, None
            await conn.close()

    async def _failed(self, error: Exception) -> None:
        self.counts.tries_failed += 1
        self.last_error = _reason(error)
        if self._tries == 0:
            log.warning("batch not stored, is tried again until it is", extra={"reason": self.last_error})
        self.connected = False
        if self._deadline.missed or isinstance(error, psycopg.errors.QueryCanceled):
            self._rows_now = max(_FEWEST_ROWS, self._rows_now // 2)
        await self._disconnect()  # whatever state the connection is in, a new one is in a known state
        first_s, longest_s = _WAIT_S
        wait_s = min(longest_s, first_s * 2 ** min(self._tries, 10))
        self._tries += 1
        await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads reconnections, keeps no secret


class _Deadline:
    """Cuts a connection whose server does not answer in time. Cancelling instead would ask that server to cooperate."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1
        self.missed = False

    @contextlib.contextmanager
    def over(self, conn: psycopg.AsyncConnection[Any]) -> Iterator[None]:
        self._fd = conn.fileno()
        self.missed = False
        self.again()
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def again(self) -> None:
        """There is progress: the time runs anew."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._cut)

    def _cut(self) -> None:
        self.missed = True
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._fd)) as other:
            other.shutdown(socket.SHUT_RDWR)


class _DecisionError(Exception):
    """The case decision failed for a reason that is not the database's."""


_DATABASE_CLASSES = ("08", "40", "53", "55", "57", "58", "25")
_ROW_CLASSES = ("21", "22", "23", "54", "P0")


def fault_of(error: Exception) -> Fault:
    """Whose fault a failed try is: the database's is waited out, the row's buried, "unsure" waited out a few times.

    By SQLSTATE class (PostgreSQL, appendix A): 08 connection, 25 read-only, 40 rollback, 53 resources, 55 state, 57
    intervention, 58 system; 21, 22, 23 data, 54 limits of a row, P0 raised. Others (42 no such table, XX internal) may
    be either.
    """
    if not isinstance(error, psycopg.Error):
        return "database" if isinstance(error, OSError) else "row"
    if error.sqlstate is None:
        return "row" if isinstance(error, psycopg.DataError | psycopg.ProgrammingError) else "database"
    if error.sqlstate[:2] in _DATABASE_CLASSES:
        return "database"
    return "row" if error.sqlstate[:2] in _ROW_CLASSES else "unsure"


def _notices(changed: Sequence[StoredEvent]) -> Iterator[str]:
    if len(changed) > _TOLD_CHANGES:
        yield json.dumps({"kind": "events", "count": len(changed)})
        return
    for start in range(0, len(changed), _NOTICE_CHANGES):
        yield json.dumps(
            [
                {
                    "kind": "event",
                    "id": str(stored.id),
                    "state": stored.event.state,
                    "camera_id": stored.camera_id and stored.camera_id[:48],
                }
                for stored in changed[start : start + _NOTICE_CHANGES]
            ],
            separators=(",", ":"),
        )


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip()[:1000]


def _storable(text: str) -> str:
    """Text without what a PostgreSQL text cannot hold."""
    return text.replace("\x00", "\\u0000")


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """A spool in trouble is logged and left: its rows stay, the other spools go on."""
    try:
        yield
    except (GridwatchError, sqlite3.Error, OSError) as error:
        log.error("spool cannot be read now", extra={"spool": str(path), "reason": str(error)})
