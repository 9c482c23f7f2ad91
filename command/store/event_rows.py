"""Events into their table, a set at a time: COPY into a staging table, then one upsert.

The rule between two statements about one event, the same in memory (`newer`) and in SQL: the higher (epoch, number)
wins; a closed event takes no more statements, unless a newer epoch of its worker makes one. What loses is counted, no
error: a statement that came twice or late is `stale`, one that came after the closing is `refused`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import tuple_row
from pydantic import TypeAdapter

from command.store.rows import StoredEvent
from ingest.errors import GridwatchError
from ingest.event import Event, Evidence

_COLUMNS = (
    "id, started_at, epoch, number, state, code, camera_id, rule_id, zone_id, priority, updated_at, ended_at,"
    " emitted_at, score, object_class, box, lon, lat, place_from, grid_id, grid_match, village, evidence, attributes"
)
_KEPT = ("id", "started_at")
_CHANGED = ", ".join(
    f"{name} = EXCLUDED.{name}" for name in map(str.strip, _COLUMNS.split(",")) if name not in (*_KEPT, "emitted_at")
)
# emitted_at and stored_at stay those of the first statement: they measure how long an event took to be seen.

_STAGE = f"CREATE TEMP TABLE event_stage ON COMMIT DELETE ROWS AS SELECT {_COLUMNS} FROM events WITH NO DATA"  # noqa: S608
_COPY = f"COPY event_stage ({_COLUMNS}) FROM STDIN"
_MOVED = """
    SELECT s.id, e.started_at FROM event_stage s JOIN events e ON e.id = s.id
    WHERE s.state <> 'opened' AND e.started_at <> s.started_at LIMIT 1
"""
_UPSERT = f"""
    INSERT INTO events AS e ({_COLUMNS}) SELECT {_COLUMNS} FROM event_stage
    ON CONFLICT (started_at, id) DO UPDATE SET revision = e.revision + 1, {_CHANGED}
    WHERE (EXCLUDED.epoch, EXCLUDED.number) > (e.epoch, e.number)
      AND (e.state <> 'closed' OR EXCLUDED.epoch > e.epoch)
    RETURNING id, revision
"""  # noqa: S608 - constants of this module
_REFUSED = """
    SELECT count(*) FROM event_stage s JOIN events e USING (started_at, id)
    WHERE e.state = 'closed' AND s.epoch = e.epoch AND s.number > e.number
"""
_COPIES = """
    UPDATE case_events c SET event = to_jsonb(e)
    FROM events e WHERE c.event_id = e.id AND c.started_at = e.started_at AND e.id = ANY(%s) AND e.started_at = ANY(%s)
"""

_EVIDENCE: TypeAdapter[tuple[Evidence, ...]] = TypeAdapter(tuple[Evidence, ...])
_ATTRIBUTES: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


@dataclass(frozen=True)
class Stored:
    """What became of a set: `new` were not there before, `changed` counts the others that were applied."""

    new: list[StoredEvent]
    changed: list[StoredEvent]
    refused: int
    stale: int


def newer(statement: Event, than: Event) -> bool:
    """Whether `statement` replaces `than` of the same id."""
    if statement.order() <= than.order():
        return False
    return than.state != "closed" or statement.epoch > than.epoch


async def prepare(conn: AsyncConnection[Any]) -> None:
    """Once a connection: the staging table, which empties itself at every commit."""
    await conn.execute(_STAGE.encode())


async def store_events(conn: AsyncConnection[Any], events: Sequence[StoredEvent]) -> Stored:
    """Write events with unique ids, inside the caller's transaction.

    Raises:
        GridwatchError: `store.started_at_moved`: an event came again with another start, which is part of its key.
        psycopg.Error: what the database says.
    """
    by_id: dict[UUID, StoredEvent] = {stored.id: stored for stored in events}
    assert len(by_id) == len(events), "one statement an event"
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(b"DELETE FROM event_stage")
        async with cursor.copy(_COPY.encode()) as copy:
            for stored in events:
                await copy.write_row(_fields(stored))
        await cursor.execute(_MOVED.encode())
        if moved := await cursor.fetchone():
            raise GridwatchError("store.started_at_moved", event=moved[0], first=moved[1].isoformat())
        await cursor.execute(_UPSERT.encode())
        new: list[StoredEvent] = []
        changed: list[StoredEvent] = []
        for event_id, revision in await cursor.fetchall():
            (new if revision == 1 else changed).append(by_id[event_id])
        refused = 0
        left = len(events) - len(new) - len(changed)
        if left:
            await cursor.execute(_REFUSED.encode())
            row = await cursor.fetchone()
            refused = row[0] if row is not None else 0
        if changed:
            await cursor.execute(
                _COPIES.encode(), ([stored.id for stored in changed], [stored.started_at for stored in changed])
            )
    return Stored(new, changed, refused, left - refused)


def _fields(stored: StoredEvent) -> tuple[object, ...]:
    event = stored.event
    return (
        event.id,
        event.started_at,
        event.epoch,
        event.number,
        event.state,
        event.code,
        event.camera_id,
        event.rule_id,
        event.zone_id,
        event.priority,
        event.updated_at,
        event.ended_at,
        event.emitted_at,
        event.score,
        event.object_class,
        event.box.model_dump_json() if event.box is not None else None,
        stored.lon,
        stored.lat,
        event.place_from,
        stored.grid_id,
        stored.grid_match,
        stored.village,
        _EVIDENCE.dump_json(event.evidence).decode() if event.evidence else "[]",
        _ATTRIBUTES.dump_json(event.attributes).decode() if event.attributes else "{}",
    )
