"""`gridwatch patrol` as a person or a script runs it: a process, a keyboard, a screen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.command.dispatch.dispatch_town import Dispatch, happen, opened, rows, until


class Terminal:
    """The running program, its screen as lines, its keyboard."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def sees(self, text: str) -> None:
        await until(lambda: any(text in line for line in self.lines), f"{text!r} on the screen: {self.lines}")


@contextlib.asynccontextmanager
async def terminal(dispatch: Dispatch, home: Path, *arguments: str, lang: str = "zh") -> AsyncIterator[Terminal]:
    environment = {
        **os.environ,
        "GRIDWATCH_HOME": str(home),
        "GRIDWATCH_LANG": lang,
        "GRIDWATCH_MQTT_PORT": str(dispatch.port),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("GRIDWATCH_MQTT_URL", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from command.cli import main; main()",
        "patrol",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    try:
        yield Terminal(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """GRIDWATCH_HOME: the accounts fixture has made its secrets."""
    return tmp_path


async def test_a_person_works_through_a_task(dispatch: Dispatch, home: Path) -> None:
    async with terminal(dispatch, home, "p-1") as screen:
        await screen.sees("已连接")
        screen.type("list")
        await screen.sees("没有任务")
        await happen(dispatch.conninfo, [opened(1)])
        await screen.sees("[1] 新任务  入侵检测  案件 1  Gate 1  网格 g-1")
        screen.type("accept 7")
        await screen.sees("没有编号为“7”的任务")
        screen.type("dance")
        await screen.sees("不认识“dance”")
        screen.type("done 1 太早")
        await screen.sees("[1] 已完成：未生效")
        screen.type("accept 1")
        screen.type("onsite 1")
        screen.type("done 1 两人已劝离，现场 恢复")
        await screen.sees("[1] 已完成：完成。")
        screen.type("quit")
        assert await screen.process.wait() == 0
    steps = await rows(dispatch.conninfo, "SELECT step, note FROM task_steps WHERE applied ORDER BY revision, at")
    assert [row["step"] for row in steps if row["step"] != "received"] == ["offered", "accepted", "on_site", "done"]
    assert steps[-1]["note"] == "两人已劝离，现场 恢复"
    assert await rows(dispatch.conninfo, "SELECT state FROM cases") == [{"state": "reported_back"}]


async def test_auto_accepts_and_reports(dispatch: Dispatch, home: Path) -> None:
    async with terminal(dispatch, home, "p-1", "--auto", "accept,report", lang="en") as screen:
        await screen.sees("Connected.")
        await happen(dispatch.conninfo, [opened(1)])
        await screen.sees("[1] done: done.")
        screen.process.send_signal(signal.SIGINT)
        assert await screen.process.wait() == 0
        assert not any("Traceback" in line for line in screen.lines)
    assert await rows(dispatch.conninfo, "SELECT state FROM cases") == [{"state": "reported_back"}]


async def test_killed_with_a_step_kept_sends_it_at_the_next_start(dispatch: Dispatch, home: Path) -> None:
    assert dispatch.broker is not None
    async with terminal(dispatch, home, "p-1", lang="en") as screen:
        await happen(dispatch.conninfo, [opened(1)])
        await screen.sees("[1] new")
        await dispatch.broker.stop()
        await screen.sees("Connection lost")
        screen.type("accept 1")
        await screen.sees("kept, being sent")
        screen.process.kill()
    await dispatch.broker.start()
    async with terminal(dispatch, home, "p-1", lang="en") as screen:
        await screen.sees("[1] accepted: done.")
        async with terminal(dispatch, home, "p-1", lang="en") as second:
            await second.sees("Another terminal uses")
            assert await second.process.wait() == 1


async def test_what_cannot_work_is_said_in_a_sentence(dispatch: Dispatch, home: Path) -> None:
    for arguments, said in (
        (("p-9",), "[dispatch.no_account]"),
        (("p-1", "--password", "wrong"), "[dispatch.mqtt_refused]"),
        (("p-1", "--url", "http://x"), "[dispatch.mqtt_url]"),
        (("p-1", "--auto", "sleep"), "[patrol.auto_unknown]"),
        (("a/b",), "[dispatch.person_id]"),
    ):
        async with terminal(dispatch, home, *arguments) as screen:
            await screen.sees(said)
            assert await screen.process.wait() == 1
            assert not any("Traceback" in line for line in screen.lines)
