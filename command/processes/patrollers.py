"""The demo's patrollers: one real MQTT device each, who accept and report back after a human while.

Arguments: seconds until a task is accepted and until it is reported back, then the ids of the people.
"""

from __future__ import annotations

import asyncio
import random
import sys
from uuid import UUID

from command.dispatch.accounts import Accounts
from command.dispatch.address import MqttAddress
from command.dispatch.patrol import PatrolDevice
from command.dispatch.wire import TaskMessage
from command.processes.child import run_child
from command.settings import Settings
from ingest.clock import SystemClock
from ingest.errors import sentence


class DemoPatroller:
    """One person with one device; walks each offered task to its end."""

    def __init__(self, settings: Settings, person_id: str, accept_s: float, report_s: float) -> None:
        password = Accounts(settings.secrets).password(person_id)
        url = settings.mqtt_url or f"mqtt://{settings.host}:{settings.mqtt_port}"
        self._accept_s = accept_s
        self._report_s = report_s
        self._note = sentence("demo.note", settings.lang)
        self._walks: dict[UUID, asyncio.Task[None]] = {}
        self.device = PatrolDevice(
            MqttAddress.of_url(url, person_id, password),
            person_id,
            SystemClock(),
            state_path=settings.home / "devices" / f"{person_id}.json",
            device="demo",
            on_task=self._on_task,
        )

    def _on_task(self, task: TaskMessage) -> None:
        assert task.task_id is not None
        if task.task_state in ("offered", "received") and task.task_id not in self._walks:
            walk = asyncio.create_task(self._walk(task.task_id), name=f"walk-{task.task_id}")
            self._walks[task.task_id] = walk
            walk.add_done_callback(lambda _: self._walks.pop(task.task_id, None) if task.task_id else None)

    async def _walk(self, task_id: UUID) -> None:
        await asyncio.sleep(self._accept_s * random.uniform(0.5, 1.5))  # noqa: S311
        self.device.answer(task_id, "accepted")
        await asyncio.sleep(self._report_s * random.uniform(0.5, 1.5))  # noqa: S311
        self.device.answer(task_id, "done", self._note)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run every patroller of the arguments until `stop`."""
    accept_s, report_s, *people = sys.argv[1:]
    patrollers = [DemoPatroller(settings, person, float(accept_s), float(report_s)) for person in people]
    running = [asyncio.create_task(one.device.run(), name=one.device.person_id) for one in patrollers]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in running if task.done()]
    for task in [stopping, *running]:
        task.cancel()
    await asyncio.wait(running, timeout=3)
    for task in failed:
        task.result()  # a refused account is an error that a person must see


if __name__ == "__main__":
    run_child("patrollers", main)
