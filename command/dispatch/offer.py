"""Orders to people: who can get a case's lead task, the task rows themselves, and the outbox rows that tell devices.

All of it runs inside the caller's transaction and for many cases at once, so that a burst costs a few statements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from ingest.event import EVENT_CODES, new_id

# Whom a grid's case goes to, in this order.
ROLES_IN_ORDER = ("patroller", "leader")


@dataclass(frozen=True)
class Offer:
    """A lead task to be: the case, its grid, and who gets it."""

    task_id: UUID
    case_id: UUID
    grid_id: str | None
    person_id: str


async def holders(conn: psycopg.AsyncConnection[Any], grid_ids: Iterable[str]) -> dict[str, list[str]]:
    """For each grid the people who can get a task, first choice first; a grid without any is missing."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            """
            SELECT grid_id, person_id FROM grid_roles JOIN people USING (person_id)
            WHERE grid_id = ANY(%s) AND role = ANY(%s) AND removed_at IS NULL
            ORDER BY grid_id, array_position(%s::text[], role), person_id
            """,
            (sorted(set(grid_ids)), list(ROLES_IN_ORDER), list(ROLES_IN_ORDER)),
        )
        found: dict[str, list[str]] = {}
        for grid_id, person_id in await cursor.fetchall():
            people = found.setdefault(grid_id, [])
            if person_id not in people:
                people.append(person_id)
        return found


async def offer_tasks(
    conn: psycopg.AsyncConnection[Any], offers: Sequence[Offer], *, person: str | None = None, note: str | None = None
) -> None:
    """Write lead tasks in state `offered` with their first step and the outbox rows.

    `person` is who gave the order (None: the system), `note` reaches the device.

    Raises:
        psycopg.errors.UniqueViolation: a case has a lead holder already; the caller holds the case's lock, so this is a
            fault of the caller and rolls everything back.
    """
    if not offers:
        return
    columns = (
        [offer.task_id for offer in offers],
        [offer.case_id for offer in offers],
        [offer.grid_id for offer in offers],
        [offer.person_id for offer in offers],
    )
    await conn.execute(
        """
        INSERT INTO tasks (task_id, case_id, grid_id, person_id, state, offered_at, changed_at)
        SELECT task_id, case_id, grid_id, person_id, 'offered', now(), now()
        FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[]) AS o(task_id, case_id, grid_id, person_id)
        """,
        columns,
    )
    await conn.execute(
        """
        INSERT INTO task_steps (step_id, task_id, revision, at, person_id, step, to_state, applied, note)
        SELECT step_id, task_id, 1, now(), %s, 'offered', 'offered', true, %s
        FROM unnest(%s::uuid[], %s::uuid[]) AS o(step_id, task_id)
        """,
        (person, note, [new_id() for _ in offers], columns[0]),
    )
    await tell_devices(conn, columns[0], note=note)


_BODY = """
    jsonb_build_object(
        'person_id', t.person_id, 'task_id', t.task_id, 'task_revision', t.revision, 'task_state', t.state,
        'case_id', c.case_id, 'case_number', c.number, 'code', c.code,
        'title_zh', coalesce(%(titles)s::jsonb -> c.code ->> 0, c.code),
        'title_en', coalesce(%(titles)s::jsonb -> c.code ->> 1, c.code),
        'note', %(note)s::text, 'grid_id', c.grid_id, 'camera_id', c.camera_id, 'camera_name', k.name,
        'zone_id', c.zone_id, 'lon', c.lon, 'lat', c.lat, 'offered_at', t.offered_at, 'due_at', t.due_at
    )
"""
_FROM = "FROM tasks t JOIN cases c USING (case_id) LEFT JOIN cameras k ON k.camera_id = c.camera_id"
_TITLES = Jsonb(EVENT_CODES)


async def tell_devices(
    conn: psycopg.AsyncConnection[Any],
    task_ids: Sequence[UUID],
    *,
    note: str | None = None,
    extra: Mapping[str, object] | None = None,
) -> None:
    """One outbox row for the present revision of each task, `extra` merged into its body; a revision is told once."""
    await conn.execute(
        f"""
        INSERT INTO outbox (outbox_id, person_id, task_id, revision, body)
        SELECT o.outbox_id, t.person_id, t.task_id, t.revision,
               {_BODY} || jsonb_build_object('outbox_id', o.outbox_id) || %(extra)s::jsonb
        {_FROM} JOIN unnest(%(outbox_ids)s::uuid[], %(task_ids)s::uuid[]) AS o(outbox_id, task_id) USING (task_id)
        ON CONFLICT (task_id, revision) DO NOTHING
        """,
        {
            "titles": _TITLES,
            "note": note,
            "extra": Jsonb(dict(extra or {})),
            "outbox_ids": [new_id() for _ in task_ids],
            "task_ids": list(task_ids),
        },
    )


async def task_body(conn: psycopg.AsyncConnection[Any], task_id: UUID) -> dict[str, Any] | None:
    """The body for the present revision of one task, as `tell_devices` would write it, without an `outbox_id`."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            f"SELECT {_BODY} {_FROM} WHERE t.task_id = %(task_id)s",
            {"titles": _TITLES, "note": None, "task_id": task_id},
        )
        row = await cursor.fetchone()
        return None if row is None else dict(row[0])
