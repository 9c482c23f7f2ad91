"""Answers of devices and steps of operators, applied to tasks and cases under row locks, each step one append-only row.

Every step names the revision that its person saw. Of two steps upon the same revision one wins; the loser, and whatever
comes late, from a stranger, or for a recalled task, is kept as a not-applied row with the code of the reason. Locks are
taken case first, then task, so that no two of these transactions wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from command.dispatch.notify import Change, notify_changes, ring_outbox
from command.dispatch.offer import Offer, holders, offer_tasks, task_body, tell_devices
from command.dispatch.states import CASE, CASE_AFTER_LEAD, CASE_FOLLOWS, RECALLS_LEAD, TASK, Who, case_is_open
from command.dispatch.wire import Answer, TaskMessage
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


async def apply_receipts(conn: psycopg.AsyncConnection[Any], receipts: Sequence[Answer]) -> int:
    """Take `received` answers all at once: close the outbox rows, move offered tasks to received; idempotent.

    A receipt confirms every message about its task up to the revision it names, and settles nothing else, so a device
    gets no reply to it. Returns how many outbox rows were closed.
    """
    if not receipts:
        return 0
    columns = (
        [receipt.answer_id for receipt in receipts],
        [receipt.task_id for receipt in receipts],
        [receipt.task_revision for receipt in receipts],
        [receipt.person_id for receipt in receipts],
        [receipt.at for receipt in receipts],
    )
    given = """unnest(%s::uuid[], %s::uuid[], %s::bigint[], %s::text[], %s::timestamptz[])
               AS g(answer_id, task_id, revision, person_id, at)"""
    async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            "SELECT task_id FROM tasks WHERE task_id = ANY(%s) ORDER BY task_id FOR UPDATE", (sorted(set(columns[1])),)
        )
        await cursor.execute(
            f"""
            UPDATE outbox o SET confirmed_at = now() FROM {given}
            WHERE o.task_id = g.task_id AND o.person_id = g.person_id AND o.revision <= g.revision
              AND o.confirmed_at IS NULL
            """,  # noqa: S608  a constant of this function
            columns,
        )
        confirmed = cursor.rowcount
        await cursor.execute(
            f"""
            WITH moved AS (
                UPDATE tasks t SET state = 'received', changed_at = now()
                FROM (SELECT DISTINCT ON (task_id) * FROM {given} ORDER BY task_id, at) g
                WHERE t.task_id = g.task_id AND t.person_id = g.person_id AND t.state = 'offered'
                RETURNING t.task_id, t.case_id, t.revision, t.person_id, g.answer_id, g.at
            ), told AS (
                INSERT INTO task_steps (step_id, task_id, revision, at, person_id, step, from_state, to_state, applied)
                SELECT answer_id, task_id, revision, at, person_id, 'received', 'offered', 'received', true FROM moved
                ON CONFLICT (step_id) DO NOTHING
            )
            SELECT task_id FROM moved
            """,  # noqa: S608  a constant of this function
            columns,
        )
        moved = [row[0] for row in await cursor.fetchall()]
        await notify_changes(conn, [("task", task_id) for task_id in moved])
        if confirmed:
            await ring_outbox(conn)  # the person's window has room again
        return confirmed


async def apply_answer(conn: psycopg.AsyncConnection[Any], answer: Answer) -> TaskMessage:
    """Apply one answer, or keep it as a note with the reason; the same `answer_id` again changes nothing.

    Returns the reply for the device: the task as it stands and what became of the answer. When the answer was applied
    the same is in the outbox. A reply without `task_id` means that no such task exists: nothing could be kept here,
    the caller keeps the answer itself.
    """
    person_id = answer.person_id or ""
    if answer.step == "received":
        await apply_receipts(conn, [answer])
        return await _reply(conn, answer, True, None)
    async with conn.transaction():
        task = await _lock_task(conn, answer.task_id)
        if task is None:
            return TaskMessage(
                person_id=person_id, answer_id=answer.answer_id, answer_applied=False, answer_why="answer.unknown_task"
            )
        if (earlier := await _earlier(conn, answer.answer_id)) is not None:
            return await _reply(conn, answer, *earlier)
        target = TASK.next_state(task.state, answer.step, "holder")
        why: str | None = None
        if task.person_id != person_id:
            why = "answer.foreign"
        elif task.state in TASK.final and task.state != "done":
            why = f"answer.{task.state}"
        elif task.revision != answer.task_revision:
            why = "answer.stale"
        elif target is None:
            why = "answer.not_allowed"
        if why is not None or target is None:
            await _note(conn, answer, task, None, why)
            return await _reply(conn, answer, False, why)
        task.revision += 1
        await conn.execute(
            "UPDATE tasks SET state = %s, revision = %s, changed_at = now() WHERE task_id = %s",
            (target, task.revision, task.task_id),
        )
        await conn.execute(
            "UPDATE outbox SET confirmed_at = now() WHERE task_id = %s AND revision <= %s AND confirmed_at IS NULL",
            (task.task_id, answer.task_revision),
        )
        await _note(conn, answer, task, target, None)
        await tell_devices(conn, [task.task_id], extra={"answer_id": str(answer.answer_id), "answer_applied": True})
        changes: list[Change] = [("task", task.task_id)]
        if task.is_lead:
            case = await _lock_case(conn, task.case_id)
            assert case is not None, "a task's case cannot be gone"
            for name in CASE_AFTER_LEAD.get(answer.step, ()):
                who: Who = "system" if name == "dispatch" else "holder"
                await _case_step(conn, case, name, who, person_id if who == "holder" else None, answer.note, changes)
        await notify_changes(conn, changes)
        await ring_outbox(conn)
        return await _reply(conn, answer, True, None)


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
        case = await _lock_case(conn, case_id)
        if case is None:
            return Conflict("case.unknown")
        if step_id is not None and await _case_step_known(conn, step_id):
            return Applied(case_id, case.revision, case.state)
        if case.revision != expected_revision:
            return Conflict("case.stale", case.revision, case.state)
        if CASE.next_state(case.state, step, "operator") is None:
            return Conflict("case.not_allowed", case.revision, case.state)
        changes: list[Change] = []
        if not await _case_step(conn, case, step, "operator", person, note, changes, to_person, step_id):
            return Conflict("case.nobody", case.revision, case.state)
        for name in CASE_FOLLOWS.get(step, ()):
            await _case_step(conn, case, name, "system", None, note, changes, to_person)
        await notify_changes(conn, changes)
        await ring_outbox(conn)
        return Applied(case_id, case.revision, case.state)


@dataclass
class _Task:
    task_id: UUID
    case_id: UUID
    person_id: str
    state: str
    revision: int
    is_lead: bool


@dataclass
class _Case:
    case_id: UUID
    grid_id: str | None
    state: str
    revision: int


async def _lock_task(conn: psycopg.AsyncConnection[Any], task_id: UUID) -> _Task | None:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("SELECT case_id FROM tasks WHERE task_id = %s", (task_id,))
        row = await cursor.fetchone()
        if row is None:
            return None
        await _lock_case(conn, row[0])
        await cursor.execute(
            "SELECT task_id, case_id, person_id, state, revision, is_lead FROM tasks WHERE task_id = %s FOR UPDATE",
            (task_id,),
        )
        row = await cursor.fetchone()
        return None if row is None else _Task(*row)


async def _lock_case(conn: psycopg.AsyncConnection[Any], case_id: UUID) -> _Case | None:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            "SELECT case_id, grid_id, state, revision FROM cases WHERE case_id = %s FOR NO KEY UPDATE", (case_id,)
        )
        row = await cursor.fetchone()
        return None if row is None else _Case(*row)


async def _earlier(conn: psycopg.AsyncConnection[Any], answer_id: UUID) -> tuple[bool, str | None] | None:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("SELECT applied, why FROM task_steps WHERE step_id = %s", (answer_id,))
        row = await cursor.fetchone()
        return None if row is None else (row[0], row[1])


async def _case_step_known(conn: psycopg.AsyncConnection[Any], step_id: UUID) -> bool:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("SELECT 1 FROM case_steps WHERE step_id = %s", (step_id,))
        return await cursor.fetchone() is not None


async def _note(
    conn: psycopg.AsyncConnection[Any], answer: Answer, task: _Task, target: str | None, why: str | None
) -> None:
    """The answer's own row; `target` None keeps it as a note that changed nothing."""
    applied = target is not None
    await conn.execute(
        """
        INSERT INTO task_steps (step_id, task_id, revision, at, person_id, step, from_state, to_state, applied, why,
                                note, lon, lat, accuracy_m)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            answer.answer_id,
            task.task_id,
            task.revision if applied else None,
            answer.at,
            answer.person_id,
            answer.step,
            task.state,
            target,
            applied,
            why,
            answer.note,
            answer.lon,
            answer.lat,
            answer.accuracy_m,
        ),
    )


async def _reply(conn: psycopg.AsyncConnection[Any], answer: Answer, applied: bool, why: str | None) -> TaskMessage:
    """The task as it stands, addressed to who answered; a stranger learns only that it is not his."""
    body: dict[str, Any] | None = {} if why == "answer.foreign" else await task_body(conn, answer.task_id)
    return TaskMessage.model_validate(
        {
            "task_id": answer.task_id,
            **(body or {}),
            "person_id": answer.person_id or "",
            "answer_id": answer.answer_id,
            "answer_applied": applied,
            "answer_why": why,
        }
    )


async def _case_step(
    conn: psycopg.AsyncConnection[Any],
    case: _Case,
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


async def _next_holder(conn: psycopg.AsyncConnection[Any], case: _Case, to_person: str | None) -> str | None:
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
