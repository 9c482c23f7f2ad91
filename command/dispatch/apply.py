"""Answers of devices, applied to tasks under row locks, each answer one append-only row.

Every answer names the revision that its person saw. Of two upon the same revision one wins; the loser, and whatever
comes late, from a stranger, or for a recalled task, is kept as a not-applied row with the code of the reason. Steps on
cases are in `case_steps.py` (their names are here too: this is the door for the API).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from command.dispatch.case_steps import Applied as Applied
from command.dispatch.case_steps import Conflict as Conflict
from command.dispatch.case_steps import apply_case_step as apply_case_step
from command.dispatch.case_steps import lock_case, take_case_step
from command.dispatch.notify import Change, notify_changes, ring_outbox
from command.dispatch.offer import task_body, tell_devices
from command.dispatch.states import CASE_AFTER_LEAD, TASK, Who
from command.dispatch.wire import Answer, TaskMessage


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
            case = await lock_case(conn, task.case_id)
            assert case is not None, "a task's case cannot be gone"
            for name in CASE_AFTER_LEAD.get(answer.step, ()):
                who: Who = "system" if name == "dispatch" else "holder"
                await take_case_step(
                    conn, case, name, who, person_id if who == "holder" else None, answer.note, changes
                )
        await notify_changes(conn, changes)
        await ring_outbox(conn)
        return await _reply(conn, answer, True, None)


@dataclass
class _Task:
    task_id: UUID
    case_id: UUID
    person_id: str
    state: str
    revision: int
    is_lead: bool


async def _lock_task(conn: psycopg.AsyncConnection[Any], task_id: UUID) -> _Task | None:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("SELECT case_id FROM tasks WHERE task_id = %s", (task_id,))
        row = await cursor.fetchone()
        if row is None:
            return None
        await lock_case(conn, row[0])
        await cursor.execute(
            "SELECT task_id, case_id, person_id, state, revision, is_lead FROM tasks WHERE task_id = %s FOR UPDATE",
            (task_id,),
        )
        row = await cursor.fetchone()
        return None if row is None else _Task(*row)


async def _earlier(conn: psycopg.AsyncConnection[Any], answer_id: UUID) -> tuple[bool, str | None] | None:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("SELECT applied, why FROM task_steps WHERE step_id = %s", (answer_id,))
        row = await cursor.fetchone()
        return None if row is None else (row[0], row[1])


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
