"""Steps on a case, with what they do to its lead task: an operator's, and those that follow a holder's answer.

Every step names the revision that its person saw: of two steps upon the same revision one wins. The case row is locked
first, then the task, so that no two of these transactions wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from command.dispatch.notify import Change, notify_changes, ring_outbox
from command.dispatch.offer import Offer, holders, offer_tasks, tell_devices
from command.dispatch.states import CASE, CASE_FOLLOWS, RECALLS_LEAD, TASK, Who, case_is_open
from ingest.event import new_id


@dataclass(frozen=True)
class Applied:
    """The step is done; where the case stands now."""

    case_id: UUID
    revision: int
    state: str


@dataclass(frozen=True)
class Conflict:
    """The step is not done: `why` is a code (`case.unknown`, `case.stale`, `case.not_allowed`, `case.nobody`)."""

    why: str
    revision: int | None = None
    state: str | None = None


@dataclass
class LockedCase:
    """A case whose row this transaction has locked."""

    case_id: UUID
    grid_id: str | None
    state: str
    revision: int


async def apply_case_step(
    conn: psycopg.AsyncConnection[Any],
    case_id: UUID,
    expected_revision: int,
    step: str,
    person: str,
    note: str | None = None,
    *,
    to_person: str | None = None,
    step_id: UUID | None = None,
) -> Applied | Conflict:
    """An operator's step (`verify`, `dismiss`, `send_back`, `dispatch`, `reopen`, …) with what follows from it.

    `expected_revision` is the case's revision that the operator saw. `to_person` names who gets the task where the step
    leads to a dispatch. `step_id` makes a repetition harmless: it is answered with where the case stands.
    """
    async with conn.transaction():
        case = await lock_case(conn, case_id)
        if case is None:
            return Conflict("case.unknown")
        if step_id is not None and await _case_step_known(conn, step_id):
            return Applied(case_id, case.revision, case.state)
        if case.revision != expected_revision:
            return Conflict("case.stale", case.revision, case.state)
        if CASE.next_state(case.state, step, "operator") is None:
            return Conflict("case.not_allowed", case.revision, case.state)
        changes: list[Change] = []
        if not await take_case_step(conn, case, step, "operator", person, note, changes, to_person, step_id):
            return Conflict("case.nobody", case.revision, case.state)
        for name in CASE_FOLLOWS.get(step, ()):
            await take_case_step(conn, case, name, "system", None, note, changes, to_person)
        await notify_changes(conn, changes)
        await ring_outbox(conn)
        return Applied(case_id, case.revision, case.state)


async def lock_case(conn: psycopg.AsyncConnection[Any], case_id: UUID) -> LockedCase | None:
    """Lock the case's row for this transaction; None when there is no such case."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            "SELECT case_id, grid_id, state, revision FROM cases WHERE case_id = %s FOR NO KEY UPDATE", (case_id,)
        )
        row = await cursor.fetchone()
        return None if row is None else LockedCase(*row)


async def take_case_step(
    conn: psycopg.AsyncConnection[Any],
    case: LockedCase,
    name: str,
    who: Who,
    person: str | None,
    note: str | None,
    changes: list[Change],
    to_person: str | None = None,
    step_id: UUID | None = None,
) -> bool:
    """One step of a locked case with what it does to the lead task; False when a dispatch finds nobody.

    Raises:
        AssertionError: the tables disagree with each other; everything is rolled back.
    """
    target = CASE.next_state(case.state, name, who)
    assert target is not None, f"the table refuses {name!r} from {case.state!r} by {who}"
    holder = await _next_holder(conn, case, to_person) if name == "dispatch" else None
    if name == "dispatch" and holder is None:
        return False
    if name in RECALLS_LEAD:
        await _recall_lead(conn, case.case_id, person, note, changes)
    case.revision += 1
    await conn.execute(
        """
        INSERT INTO case_steps (step_id, case_id, revision, at, person_id, step, from_state, to_state, note)
        VALUES (%s, %s, %s, now(), %s, %s, %s, %s, %s)
        """,
        (step_id or new_id(), case.case_id, case.revision, person, name, case.state, target, note),
    )
    await conn.execute(
        """
        UPDATE cases SET state = %s, revision = %s, changed_at = now(),
                         closed_at = CASE WHEN %s THEN NULL ELSE coalesce(closed_at, now()) END
        WHERE case_id = %s
        """,
        (target, case.revision, case_is_open(target), case.case_id),
    )
    case.state = target
    changes.append(("case", case.case_id))
    if holder is not None:
        offer = Offer(new_id(), case.case_id, case.grid_id, holder)
        await offer_tasks(conn, [offer], person=person, note=note)
        changes.append(("task", offer.task_id))
    return True


async def _next_holder(conn: psycopg.AsyncConnection[Any], case: LockedCase, to_person: str | None) -> str | None:
    """Who gets the case's next lead task.

    The named person; else whoever had it last and finished it (what is sent back goes to who did it); else the first
    holder of the grid who has not refused it or lost it.
    """
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("SELECT person_id FROM people WHERE person_id = %s AND removed_at IS NULL", (to_person,))
        if (row := await cursor.fetchone()) is not None:
            return str(row[0])
        if to_person is not None:
            return None
        await cursor.execute(
            """
            SELECT person_id, t.state, p.removed_at IS NULL FROM tasks t JOIN people p USING (person_id)
            WHERE case_id = %s AND is_lead ORDER BY offered_at DESC, task_id DESC
            """,
            (case.case_id,),
        )
        had = await cursor.fetchall()
    if had and had[0][1] == "done" and had[0][2]:
        return str(had[0][0])
    gone = {person_id for person_id, state, _ in had if state in ("refused", "recalled", "expired")}
    candidates = (await holders(conn, [case.grid_id])).get(case.grid_id, []) if case.grid_id else []
    return next((person for person in candidates if person not in gone), None)


async def _recall_lead(
    conn: psycopg.AsyncConnection[Any], case_id: UUID, person: str | None, note: str | None, changes: list[Change]
) -> None:
    """Take the open lead task away and let its device know."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            "SELECT task_id, state, revision FROM tasks WHERE case_id = %s AND is_lead AND state <> ALL(%s) FOR UPDATE",
            (case_id, sorted(TASK.final)),
        )
        row = await cursor.fetchone()
    if row is None:
        return
    task_id, state, revision = row
    await conn.execute(
        "UPDATE tasks SET state = 'recalled', revision = %s, changed_at = now() WHERE task_id = %s",
        (revision + 1, task_id),
    )
    await conn.execute(
        """
        INSERT INTO task_steps (step_id, task_id, revision, at, person_id, step, from_state, to_state, applied, note)
        VALUES (%s, %s, %s, now(), %s, 'recalled', %s, 'recalled', true, %s)
        """,
        (new_id(), task_id, revision + 1, person, state, note),
    )
    await tell_devices(conn, [task_id], note=note)
    changes.append(("task", task_id))


async def _case_step_known(conn: psycopg.AsyncConnection[Any], step_id: UUID) -> bool:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("SELECT 1 FROM case_steps WHERE step_id = %s", (step_id,))
        return await cursor.fetchone() is not None
