"""Broker killed, database away, devices absent or dying: nothing lost, nothing doubled for the person."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from command.dispatch.accounts import Accounts
from command.dispatch.address import MqttAddress
from command.dispatch.apply import apply_case_step
from command.dispatch.broker import EmbeddedBroker
from command.dispatch.outbox import RETRY_FIRST_S, OutboxRelay
from command.dispatch.patrol import PatrolDevice
from command.dispatch.topics import SERVICE
from command.dispatch.wire import MAX_BODY_BYTES
from ingest.clock import ManualClock, SystemClock
from ingest.errors import GridwatchError
from ingest.event import new_id
from tests.command.dispatch.dispatch_town import (
    GRIDS,
    Dispatch,
    happen,
    opened,
    rows,
    running_dispatch,
    until,
)
from tests.faults.proxy import PostgresProxy

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
_SERVE = """
import asyncio, sys
from pathlib import Path
from command.dispatch.broker import run_broker
asyncio.run(run_broker("127.0.0.1", int(sys.argv[1]), Path(sys.argv[2])))
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


class BrokerProcess:
    """A broker of its own process that can be killed and started again at the same port."""

    def __init__(self, *command: str, port: int) -> None:
        self._command = command
        self.port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(*self._command)
        await until(lambda: listening(self.port), "the broker listens")

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()


@pytest.fixture(params=["embedded", "mosquitto"])
async def broker_process(
    request: pytest.FixtureRequest, accounts: Accounts, short_tmp: Path
) -> AsyncIterator[BrokerProcess]:
    """The embedded broker in a process of its own, and the real Mosquitto with files made from the same accounts."""
    port = free_port()
    if request.param == "embedded":
        broker = BrokerProcess(sys.executable, "-c", _SERVE, str(port), str(accounts.passwd_path), port=port)
    else:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/sbin")
        assert program is not None, "this test needs Mosquitto: sudo apt-get install mosquitto"
        config = short_tmp / f"mosquitto-{port}.conf"
        config.write_text(
            f"user root\nlistener {port} 127.0.0.1\nallow_anonymous false\npersistence false\nlog_type error\n"
            f"password_file {accounts.passwd_path}\nacl_file {accounts.acl_path}\n"
        )
        broker = BrokerProcess(program, "-c", str(config), port=port)
    await broker.start()
    yield broker
    await broker.kill()


@pytest.fixture
async def dispatch_beside(
    town: str, accounts: Accounts, tmp_path: Path, broker_process: BrokerProcess
) -> AsyncIterator[Dispatch]:
    """The dispatch with its broker in another process."""
    async with running_dispatch(town, accounts, tmp_path, None, broker_process.port) as found:
        await found.start()
        yield found


async def all_confirmed(conninfo: str) -> bool:
    return not await rows(conninfo, "SELECT 1 FROM outbox WHERE confirmed_at IS NULL LIMIT 1")


def events(start: int, count: int) -> list[Any]:
    """One event a zone, over all grids."""
    return [opened(1 + n % GRIDS, NOON, zone_id=f"z{n}") for n in range(start, start + count)]


async def test_broker_killed_while_tasks_are_sent_and_a_device_away(
    dispatch_beside: Dispatch, broker_process: BrokerProcess
) -> None:
    dispatch = dispatch_beside
    devices = [await dispatch.online(f"p-{number}") for number in range(1, GRIDS)]
    for number in range(10):
        await happen(dispatch.conninfo, events(4 * number, 4))
        if number == 3:
            two_each = lambda: all(len(device.tasks) >= 2 for device in devices[:2])  # noqa: E731
            await until(two_each, "two devices have two tasks each", 20)
            await broker_process.kill()
        if number == 6:
            for device in devices[:2]:  # answers given while there is no broker
                for task_id in list(device.tasks)[:2]:
                    device.answer(task_id, "accepted")
            await broker_process.start()
    devices.append(await dispatch.online(f"p-{GRIDS}"))  # absent the whole time
    await until(lambda: all_confirmed(dispatch.conninfo), "every message is confirmed by its device", 40)
    await until(lambda: not any(device.unsettled for device in devices), "every answer is settled", 40)
    tasks = await rows(dispatch.conninfo, "SELECT task_id, person_id, state, revision FROM tasks")
    assert len(tasks) == 40
    for device in devices:
        theirs = {row["task_id"]: row for row in tasks if row["person_id"] == device.person_id}
        assert set(device.tasks) == set(theirs), "none lost"
        shown = dispatch.shown[device.person_id]
        assert len(shown) == len(set(shown)), "none doubled"
        assert all(device.tasks[one].task_revision == row["revision"] for one, row in theirs.items())
    assert sum(row["state"] == "accepted" for row in tasks) == 4


async def test_rights_and_accounts_are_the_same_on_both_brokers(dispatch_beside: Dispatch, accounts: Accounts) -> None:
    address = dispatch_beside.address("p-1")
    async with address.client("p-1:spy", clean_session=True) as spy:
        assert [getattr(code, "value", code) for code in await spy.subscribe("gridwatch/tasks/p-1", qos=1)] == [1]
        heard: list[str] = []

        async def listen() -> None:
            async for message in spy.messages:
                heard.append(str(message.topic))  # noqa: PERF401  read while it grows

        listening_task = asyncio.create_task(listen())
        with contextlib.suppress(Exception):
            await spy.subscribe("gridwatch/tasks/p-2", qos=1)
        await happen(dispatch_beside.conninfo, [opened(2), opened(1)])
        await until(lambda: bool(heard), "own task arrives")
        assert set(heard) == {"gridwatch/tasks/p-1"}
        listening_task.cancel()


async def test_two_devices_of_one_person_accept_one_wins(dispatch: Dispatch) -> None:
    outcomes: list[bool] = []
    devices = [await dispatch.online("p-1", device=name) for name in ("phone", "tablet")]
    for device in devices:
        device.on_settled = lambda answer, message: outcomes.append(bool(message.answer_applied))
    await happen(dispatch.conninfo, [opened(1)])
    await until(lambda: all(len(device.tasks) == 1 for device in devices), "both hear of it")
    for device in devices:
        device.answer(next(iter(device.tasks)), "accepted")
    await until(lambda: len(outcomes) == 2, "both are told")
    assert sorted(outcomes) == [False, True]
    assert dispatch.answers.counts.not_applied == 1


@pytest.fixture
async def dispatch_by_proxy(
    town: str, accounts: Accounts, tmp_path: Path, postgres_proxy: PostgresProxy
) -> AsyncIterator[Dispatch]:
    """The dispatch whose database can be taken away."""
    broker = EmbeddedBroker("127.0.0.1", 0, accounts.passwd_path)
    port = await broker.start()
    async with running_dispatch(town, accounts, tmp_path, broker, port) as found:
        await found.start(database=postgres_proxy.conninfo)
        yield found
    await broker.stop()


async def test_answers_wait_on_disk_while_the_database_is_away(
    dispatch_by_proxy: Dispatch, postgres_proxy: PostgresProxy
) -> None:
    dispatch = dispatch_by_proxy
    device = await dispatch.online("p-1")
    await happen(dispatch.conninfo, [opened(1)])
    await until(lambda: len(device.tasks) == 1, "the task arrives")
    await until(lambda: all_confirmed(dispatch.conninfo), "its receipt is applied")
    await until(lambda: dispatch.spool.count == 0, "the spool is empty")
    postgres_proxy.stop()
    device.answer(next(iter(device.tasks)), "accepted")
    await until(lambda: dispatch.spool.count > 0, "the answer is on disk")
    await happen(dispatch.conninfo, [opened(1, zone_id="roof")])  # the writer's own road to the database is open
    assert device.unsettled
    postgres_proxy.start()
    await until(lambda: not device.unsettled, "the answer is applied")
    await until(lambda: len(device.tasks) == 2, "the new task is published")
    assert len(await rows(dispatch.conninfo, "SELECT 1 FROM task_steps WHERE step = 'accepted'")) == 1


async def test_commit_whose_answer_was_cut_off_is_applied_once(
    dispatch_by_proxy: Dispatch, postgres_proxy: PostgresProxy
) -> None:
    dispatch = dispatch_by_proxy
    device = await dispatch.online("p-1")
    await happen(dispatch.conninfo, [opened(1)])
    await until(lambda: len(device.tasks) == 1, "the task arrives")
    await until(lambda: all_confirmed(dispatch.conninfo), "its receipt is applied")
    postgres_proxy.cut_after_commits(1)
    device.answer(next(iter(device.tasks)), "accepted")
    await until(lambda: not device.unsettled, "the answer is settled")
    assert next(iter(device.tasks.values())).task_revision == 2
    assert len(await rows(dispatch.conninfo, "SELECT 1 FROM task_steps WHERE step = 'accepted'")) == 1


async def test_a_late_committer_is_not_overlooked(dispatch: Dispatch) -> None:
    device = await dispatch.online("p-1")
    await happen(dispatch.conninfo, [opened(1)])
    (case,) = await rows(dispatch.conninfo, "SELECT case_id, revision FROM cases")
    async with await psycopg.AsyncConnection.connect(dispatch.conninfo) as late:
        await apply_case_step(late, case["case_id"], case["revision"], "dismiss", "operator")  # not committed yet
        await happen(dispatch.conninfo, [opened(1, zone_id="roof")])
        await until(lambda: len(device.tasks) == 2, "a row that was written later is published")
        await until(lambda: dispatch.relay.counts.published >= 2, "and noted")
    await until(
        lambda: "recalled" in [task.task_state for task in device.tasks.values()], "the row that was committed later"
    )


async def test_a_device_that_dies_sends_its_steps_at_its_next_start(dispatch: Dispatch, tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    device = dispatch.device("p-1", state_path=path)
    running = dispatch.switch_on(device)
    await until(device.connected.is_set, "online")
    await happen(dispatch.conninfo, [opened(1)])
    await until(lambda: len(device.tasks) == 1, "the task arrives")
    task_id = next(iter(device.tasks))
    running.cancel()
    await asyncio.wait([running])
    device.answer(task_id, "accepted")
    device.answer(task_id, "done", "处理完毕")  # then the battery is empty

    again = PatrolDevice(dispatch.address("p-1"), "p-1", SystemClock(), path)
    assert [answer.step for answer in again.unsettled] == ["accepted", "done"]
    dispatch.switch_on(again)
    await until(lambda: not again.unsettled, "both steps are settled")
    assert (await rows(dispatch.conninfo, "SELECT state FROM cases")) == [{"state": "reported_back"}]
    assert PatrolDevice(dispatch.address("p-1"), "p-1", SystemClock(), path).tasks[task_id].task_state == "done"


async def test_a_step_built_upon_a_refused_one_falls_with_it(dispatch: Dispatch) -> None:
    device = await dispatch.online("p-1")
    outcomes: list[tuple[str, str | None]] = []
    device.on_settled = lambda answer, message: outcomes.append((answer.step, message.answer_why))
    await happen(dispatch.conninfo, [opened(1)])
    await until(lambda: len(device.tasks) == 1, "the task arrives")
    task_id = next(iter(device.tasks))
    device.answer(task_id, "on_site")  # before accepting
    device.answer(task_id, "done")
    await until(lambda: len(outcomes) == 2, "both are told")
    assert outcomes == [("on_site", "answer.not_allowed"), ("done", "answer.not_allowed")]
    assert not device.unsettled


async def test_an_absent_person_gets_a_window_then_the_rest_in_order(dispatch: Dispatch) -> None:
    await happen(dispatch.conninfo, [opened(1, NOON, zone_id=f"z{n}") for n in range(130)])

    async def published() -> int:
        (row,) = await rows(dispatch.conninfo, "SELECT count(*) AS n FROM outbox WHERE published_at IS NOT NULL")
        return int(row["n"])

    async def window_is_out() -> bool:
        return await published() >= 50

    await until(window_is_out, "the window is published")
    assert await published() == 50
    device = await dispatch.online("p-1")
    await until(lambda: len(device.tasks) == 130, "everything arrives")
    numbers = [device.tasks[task_id].case_number for task_id, _ in dispatch.shown["p-1"]]
    assert numbers == sorted(numbers, key=lambda number: number or 0)


async def test_an_unconfirmed_message_is_published_again_after_a_growing_wait(
    town: str, accounts: Accounts, tmp_path: Path
) -> None:
    clock = ManualClock(datetime.now(UTC))
    broker = EmbeddedBroker("127.0.0.1", 0, accounts.passwd_path)
    port = await broker.start()
    async with running_dispatch(town, accounts, tmp_path, broker, port) as dispatch:
        relay = OutboxRelay(town, dispatch.address(SERVICE), clock, poll_s=0.02)
        dispatch.running.append(dispatch.group.create_task(relay.run()))
        await happen(town, [opened(1)])  # nobody is there to confirm
        await until(lambda: relay.counts.published == 1, "published once")
        for number, wait_s in enumerate((1, 2, 4, 8)):
            clock.advance(RETRY_FIRST_S * wait_s - 1)
            await asyncio.sleep(0.1)
            assert relay.counts.published_again == number
            clock.advance(1)
            await until(lambda count=number + 1: relay.counts.published_again == count, "published again")
        clock.step_wall(-86_400)  # the wall clock is set back: nobody waits a day for it
        await until(lambda: relay.counts.published_again == 5, "published again")
    await broker.stop()


async def test_what_is_no_answer_is_set_aside_with_the_reason(dispatch: Dispatch) -> None:
    await happen(dispatch.conninfo, [opened(1)])
    (task,) = await rows(dispatch.conninfo, "SELECT task_id FROM tasks")
    good = {
        "answer_id": str(new_id()),
        "task_id": str(task["task_id"]),
        "task_revision": 1,
        "step": "accepted",
        "at": NOON.isoformat(),
    }
    bad: list[Any] = [
        b"\xff\xfe not JSON",
        "[]",
        json.dumps({**good, "step": "ate it"}),
        json.dumps({**good, "answer_id": str(new_id()), "person_id": "p-2"}),
        json.dumps({**good, "answer_id": str(new_id()), "note": "zero \u0000"}),
        json.dumps({**good, "answer_id": str(new_id()), "task_id": str(new_id())}),
        json.dumps({**good, "answer_id": str(new_id()), "task_revision": 10**30}),
        json.dumps({**good, "answer_id": str(new_id()), "lon": 1e999}),
        json.dumps({**good, "answer_id": str(new_id()), "note": "\ud800"}),
        b"[" * 10_000,
    ]
    replies: list[dict[str, Any]] = []
    async with dispatch.address("p-1").client("p-1:odd", clean_session=True) as client:
        await client.subscribe("gridwatch/tasks/p-1", qos=1)

        async def listen() -> None:
            async for message in client.messages:
                replies.append(json.loads(bytes(message.payload)))  # noqa: PERF401  read while it grows

        hearing = asyncio.create_task(listen())
        for body in bad:
            await client.publish("gridwatch/answers/p-1", body, qos=1)
        await client.publish("gridwatch/answers/p-1", b"x" * (MAX_BODY_BYTES + 1), qos=1)
        await client.publish("gridwatch/answers/p-1", json.dumps(good), qos=1)
        await until(lambda: any(reply.get("answer_applied") for reply in replies), "the good answer is applied")
        await until(lambda: dispatch.spool.count == 0, "the spool is empty")
        hearing.cancel()
    dead = await rows(dispatch.conninfo, "SELECT reason FROM dead_letters ORDER BY seq")
    assert len(dead) == len(bad)
    told = {reply["answer_why"] for reply in replies if reply.get("answer_applied") is False}
    assert told == {"answer.invalid", "answer.unknown_task"}


async def test_wrong_password_ends_the_device_with_a_sentence(dispatch: Dispatch) -> None:
    wrong = dispatch.address("p-1")
    device = PatrolDevice(replace(wrong, password="wrong"), "p-1", SystemClock())
    with pytest.raises(GridwatchError, match=r"dispatch\.mqtt_refused"):
        await device.run()


def test_a_damaged_device_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    path.write_text('{"tasks": 7}')
    device = PatrolDevice(MqttAddress("127.0.0.1", 1, "p-1", ""), "p-1", SystemClock(), path)
    assert not device.tasks
    assert path.with_name("device.json.damaged").exists()
