"""Answers and operators' steps: one winner, nothing lost, nothing applied that should not be."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from command.dispatch.apply import Applied, Conflict, apply_answer, apply_case_step, apply_receipts
from command.dispatch.states import CASE, TASK
from command.dispatch.wire import Answer, AnswerStep, TaskMessage
from ingest.event import new_id
from tests.command.dispatch.dispatch_town import happen, opened, rows


def answer(task_id: UUID, step: AnswerStep, revision: int = 1, person: str = "p-1", **more: Any) -> Answer:
    return Answer(
        answer_id=new_id(),
        task_id=task_id,
        task_revision=revision,
        step=step,
        person_id=person,
        at=datetime.now(UTC),
        **more,
    )


async def apply(conninfo: str, one: Answer) -> TaskMessage:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        return await apply_answer(conn, one)


async def operate(conninfo: str, step: str, **options: Any) -> Applied | Conflict:
    (case,) = await rows(conninfo, "SELECT case_id, revision FROM cases")
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        return await apply_case_step(conn, case["case_id"], case["revision"], step, "operator", **options)


@pytest.fixture
async def task_id(town: str) -> UUID:
    """The one task of the town, offered to p-1."""
    await happen(town, [opened(1)])
    (task,) = await rows(town, "SELECT task_id FROM tasks")
    found: UUID = task["task_id"]
    return found


async def state(conninfo: str) -> tuple[str, str]:
    (found,) = await rows(
        conninfo,
        """SELECT c.state AS c, t.state AS t FROM cases c LEFT JOIN tasks t USING (case_id)
           ORDER BY t.offered_at DESC, t.task_id DESC LIMIT 1""",
    )
    return found["c"], found["t"]


async def test_two_accepts_give_one_winner(town: str, task_id: UUID) -> None:
    replies = await asyncio.gather(*(apply(town, answer(task_id, "accepted")) for _ in range(6)))
    assert sorted(reply.answer_applied or False for reply in replies) == [False] * 5 + [True]
    assert {reply.answer_why for reply in replies} == {None, "answer.stale"}
    assert all((reply.task_state, reply.task_revision) == ("accepted", 2) for reply in replies)
    steps = await rows(town, "SELECT applied FROM task_steps WHERE step = 'accepted'")
    assert len(steps) == 6  # the losers are kept as notes


async def test_the_same_answer_again_changes_nothing(town: str, task_id: UUID) -> None:
    one = answer(task_id, "accepted")
    first, second = await apply(town, one), await apply(town, one)
    assert first == second
    assert len(await rows(town, "SELECT 1 FROM task_steps WHERE step = 'accepted'")) == 1
    assert len(await rows(town, "SELECT 1 FROM outbox")) == 2


async def test_a_stranger_is_noted_and_learns_nothing(town: str, task_id: UUID) -> None:
    reply = await apply(town, answer(task_id, "accepted", person="p-2"))
    assert (reply.answer_applied, reply.answer_why, reply.case_id, reply.task_state) == (
        False,
        "answer.foreign",
        None,
        None,
    )
    assert await state(town) == ("dispatched", "offered")
    assert (await rows(town, "SELECT why FROM task_steps WHERE NOT applied"))[0]["why"] == "answer.foreign"


async def test_a_late_answer_to_a_recalled_task_is_kept_and_not_applied(town: str, task_id: UUID) -> None:
    await apply(town, answer(task_id, "accepted"))
    assert isinstance(await operate(town, "dismiss", note="误报"), Applied)
    reply = await apply(town, answer(task_id, "done", 2, note="全都处理好了"))
    assert (reply.answer_applied, reply.answer_why, reply.task_state) == (False, "answer.recalled", "recalled")
    (kept,) = await rows(town, "SELECT note, why FROM task_steps WHERE NOT applied")
    assert kept["note"] == "全都处理好了"
    assert await state(town) == ("dismissed", "recalled")
    (told,) = await rows(town, "SELECT body FROM outbox ORDER BY revision DESC LIMIT 1")
    assert (told["body"]["task_state"], told["body"]["note"]) == ("recalled", "误报")


async def test_steps_out_of_order_are_not_applied(town: str, task_id: UUID) -> None:
    assert (await apply(town, answer(task_id, "done"))).answer_why == "answer.not_allowed"
    assert (await apply(town, answer(task_id, "accepted"))).answer_applied
    assert (await apply(town, answer(task_id, "accepted", 2))).answer_why == "answer.not_allowed"


async def test_an_answer_to_an_unknown_task_says_so(town: str) -> None:
    reply = await apply(town, answer(new_id(), "accepted"))
    assert (reply.answer_why, reply.task_id) == ("answer.unknown_task", None)


async def test_a_refused_task_goes_to_the_leader_then_waits(town: str, task_id: UUID) -> None:
    await apply(town, answer(task_id, "refused", note="不在辖区"))
    (lead,) = await rows(town, "SELECT task_id, person_id, state FROM tasks WHERE state = 'offered'")
    assert lead["person_id"] == "l-1"
    assert (await state(town))[0] == "dispatched"
    await apply(town, answer(lead["task_id"], "refused", person="l-1"))
    assert (await state(town))[0] == "registered"
    conflict = await operate(town, "dispatch")
    assert isinstance(conflict, Conflict)
    assert conflict.why == "case.nobody"
    assert isinstance(await operate(town, "dispatch", to_person="p-3"), Applied)
    assert (await state(town)) == ("dispatched", "offered")


async def test_sent_back_goes_to_who_did_it(town: str, task_id: UUID) -> None:
    await apply(town, answer(task_id, "accepted"))
    await apply(town, answer(task_id, "done", 2))
    assert await state(town) == ("reported_back", "done")
    assert isinstance(await operate(town, "send_back", note="照片不清楚"), Applied)
    (again,) = await rows(town, "SELECT person_id, task_id FROM tasks WHERE state = 'offered'")
    assert again["person_id"] == "p-1"
    (told,) = await rows(town, "SELECT body FROM outbox WHERE task_id = %s", (again["task_id"],))
    assert told["body"]["note"] == "照片不清楚"


async def test_reopened_and_closed_times(town: str, task_id: UUID) -> None:
    await apply(town, answer(task_id, "accepted"))
    await apply(town, answer(task_id, "done", 2))
    await operate(town, "verify")
    assert (await rows(town, "SELECT closed_at IS NOT NULL AS closed FROM cases")) == [{"closed": True}]
    await operate(town, "reopen")
    assert (await rows(town, "SELECT state, closed_at IS NOT NULL AS closed FROM cases")) == [
        {"state": "dispatched", "closed": False}
    ]


async def test_an_operators_step_repeated_by_its_id_is_one_step(town: str, task_id: UUID) -> None:
    step_id = new_id()
    (case,) = await rows(town, "SELECT case_id, revision FROM cases")
    async with await psycopg.AsyncConnection.connect(town, autocommit=True) as conn:
        for _ in range(2):
            done = await apply_case_step(
                conn, case["case_id"], case["revision"], "dismiss", "operator", step_id=step_id
            )
            assert isinstance(done, Applied)
        assert await apply_case_step(conn, new_id(), 1, "verify", "operator") == Conflict("case.unknown")
    assert len(await rows(town, "SELECT 1 FROM case_steps WHERE step = 'dismiss'")) == 1


async def test_receipts_close_outbox_rows_and_never_reopen_a_task(town: str, task_id: UUID) -> None:
    async with await psycopg.AsyncConnection.connect(town, autocommit=True) as conn:
        foreign = answer(task_id, "received", person="p-2")
        assert await apply_receipts(conn, [foreign]) == 0
        mine = answer(task_id, "received")
        assert await apply_receipts(conn, [mine, answer(task_id, "received"), mine]) == 1
        assert (await state(town))[1] == "received"
        await apply_answer(conn, answer(task_id, "accepted"))
        assert await apply_receipts(conn, [answer(task_id, "received", 2)]) == 1
    assert (await state(town))[1] == "accepted"
    assert len(await rows(town, "SELECT 1 FROM task_steps WHERE step = 'received'")) == 1


STEPS: tuple[AnswerStep, ...] = ("received", "accepted", "on_site", "done", "refused")
# (who, which step, sensible: one of those that the state allows, upon a stale revision, from another person's device)
ACTIONS = st.tuples(
    st.sampled_from(["answer", "answer", "case"]),
    st.integers(0, 99),
    st.integers(0, 3).map(bool),
    st.integers(0, 5).map(lambda n: n == 0),
    st.integers(0, 5).map(lambda n: n == 0),
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ACTIONS, min_size=5, max_size=30))
def test_any_sequence_keeps_the_books(town: str, walk: list[tuple[str, int, bool, bool, bool]]) -> None:
    asyncio.run(_walk(town, walk))


async def _walk(town: str, walk: list[tuple[str, int, bool, bool, bool]]) -> None:
    """Real steps on a real case, some upon a stale revision; the books must agree after each."""
    await happen(town, [opened(1, zone_id=str(new_id()))])
    async with await psycopg.AsyncConnection.connect(town, autocommit=True, row_factory=dict_row) as conn:

        async def rows(_: str, query: str, parameters: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
            return await (await conn.execute(query, parameters)).fetchall()

        (case,) = await rows(town, "SELECT case_id FROM cases ORDER BY number DESC LIMIT 1")
        case_id = case["case_id"]
        notes = 0
        for kind, which, sensible, stale, stranger in walk:
            (before,) = await rows(town, "SELECT * FROM cases WHERE case_id = %s", (case_id,))
            task = (await rows(town, "SELECT * FROM tasks WHERE case_id = %s ORDER BY task_id DESC", (case_id,)))[0]
            if kind == "answer":
                allowed = [s for s in TASK.allowed(task["state"], "holder") if s in STEPS] if sensible else []
                step = (allowed or STEPS)[which % len(allowed or STEPS)]
                person = "p-2" if stranger else task["person_id"]
                reply = await apply_answer(
                    conn,
                    answer(task["task_id"], step, max(1, task["revision"] - stale), person),  # type: ignore[arg-type]
                )
                notes += step != "received"
                assert step == "received" or reply.answer_applied == (reply.answer_why is None)
                assert not (stranger and step != "received" and reply.answer_applied)
            else:
                names = CASE.allowed(before["state"], "operator") if sensible else ()
                name = (names or tuple(CASE.steps))[which % len(names or CASE.steps)]
                result = await apply_case_step(conn, case_id, before["revision"] - stale, name, "operator")
                assert not (stale and isinstance(result, Applied))
            (after,) = await rows(town, "SELECT * FROM cases WHERE case_id = %s", (case_id,))
            tasks = await rows(town, "SELECT * FROM tasks WHERE case_id = %s", (case_id,))
            steps = await rows(town, "SELECT * FROM case_steps WHERE case_id = %s ORDER BY revision", (case_id,))
            assert after["state"] in CASE.states
            assert after["state"] == steps[-1]["to_state"]
            assert [s["revision"] for s in steps] == list(range(1, after["revision"] + 1))
            assert sum(t["state"] not in TASK.final for t in tasks) <= 1
            assert {t["state"] for t in tasks} <= set(TASK.states)
            kept = await rows(
                town,
                """SELECT count(*) AS n FROM task_steps JOIN tasks USING (task_id)
                   WHERE case_id = %s AND step IN ('accepted', 'on_site', 'done', 'refused')""",
                (case_id,),
            )
            assert kept[0]["n"] == notes, "every answer is a row"
