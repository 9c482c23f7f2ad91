"""An event becomes a task on the patroller's device, is answered, and the case follows to its end."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime

import psycopg

from command.dispatch.apply import Applied, Conflict, apply_case_step
from tests.command.dispatch.dispatch_town import Dispatch, happen, opened, rows, until


async def test_event_to_task_to_closed_case(dispatch: Dispatch) -> None:
    device = await dispatch.online("p-1")
    await happen(dispatch.conninfo, [opened(1)])
    await until(lambda: len(device.tasks) == 1, "the task arrives")
    task = next(iter(device.tasks.values()))
    assert task.task_id is not None
    assert (task.task_state, task.code, task.camera_name, task.grid_id) == ("offered", "5.6", "Gate 1", "g-1")
    assert task.title_zh == "入侵检测"
    assert task.case_number == 1

    device.answer(task.task_id, "accepted")
    device.answer(task.task_id, "on_site", lon=115.8, lat=38.4, accuracy_m=12)  # waits for the acceptance by itself
    device.answer(task.task_id, "done", "两人已劝离")
    await until(lambda: not device.unsettled, "all three steps are settled")
    (case,) = await rows(dispatch.conninfo, "SELECT * FROM cases")
    assert case["state"] == "reported_back"
    steps = await rows(dispatch.conninfo, "SELECT step, person_id FROM case_steps ORDER BY revision")
    assert [step["step"] for step in steps] == [
        "collect",
        "register",
        "dispatch",
        "accept",
        "arrive",
        "handle",
        "report_back",
    ]
    assert steps[-1]["person_id"] == "p-1"

    async with await psycopg.AsyncConnection.connect(dispatch.conninfo, autocommit=True) as conn:
        stale = await apply_case_step(conn, case["case_id"], case["revision"] - 1, "verify", "operator")
        assert stale == Conflict("case.stale", case["revision"], "reported_back")
        closed = await apply_case_step(conn, case["case_id"], case["revision"], "verify", "operator", "看过照片")
    assert closed == Applied(case["case_id"], case["revision"] + 2, "closed")

    async def confirmed() -> bool:
        return not await rows(dispatch.conninfo, "SELECT 1 FROM outbox WHERE confirmed_at IS NULL")

    await until(confirmed, "the device has confirmed everything")
    assert len(dispatch.shown["p-1"]) == len(set(dispatch.shown["p-1"])) == 4


async def test_latency_from_commit_to_device(dispatch: Dispatch) -> None:
    arrived_s: dict[object, float] = {}
    device = dispatch.device("p-1")
    device.on_task = lambda message: arrived_s.setdefault(message.task_id, time.monotonic())
    dispatch.switch_on(device)
    await until(device.connected.is_set, "p-1 is online")
    committed_s = []
    for minute in range(30):
        await happen(dispatch.conninfo, [opened(1, datetime(2026, 5, 1, minute // 2, 30 * (minute % 2), tzinfo=UTC))])
        committed_s.append(time.monotonic())
        await until(lambda count=minute + 1: len(arrived_s) == count, "the task arrives")  # type: ignore[misc]
    taken_ms = [1000 * (b - a) for a, b in zip(committed_s, arrived_s.values(), strict=True)]
    print(f"commit -> device: p50 {statistics.median(taken_ms):.1f} ms, max {max(taken_ms):.1f} ms")
    assert statistics.median(taken_ms) < 500
