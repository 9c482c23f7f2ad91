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


def walk_tasks(device: PatrolDevice, accept_s: float, report_s: float, note: str) -> PatrolDevice:
    """Make `device` walk each offered task to its end, after about `accept_s` and then about `report_s` seconds."""
    walks: dict[UUID, asyncio.Task[None]] = {}

    async def walk(task_id: UUID, state: str | None) -> None:
        if state != "accepted":  # else an earlier run accepted it
            await asyncio.sleep(accept_s * random.uniform(0.5, 1.5))  # noqa: S311
            device.answer(task_id, "accepted")
        await asyncio.sleep(report_s * random.uniform(0.5, 1.5))  # noqa: S311
        device.answer(task_id, "done", note)

    def on_task(task: TaskMessage) -> None:
        task_id = task.task_id
        if task_id is not None and task_id not in walks and task.task_state in ("offered", "received", "accepted"):
            walks[task_id] = asyncio.create_task(walk(task_id, task.task_state), name=f"walk-{task_id}")

    device.on_task = on_task
    return device


def demo_device(settings: Settings, person_id: str) -> PatrolDevice:
    """One person's device in the demo, with a file of its own."""
    password = Accounts(settings.secrets).password(person_id)
    url = settings.mqtt_url or f"mqtt://{settings.host}:{settings.mqtt_port}"
    return PatrolDevice(
        MqttAddress.of_url(url, person_id, password),
        person_id,
        SystemClock(),
        state_path=settings.home / "devices" / f"{person_id}.json",
        device="demo",
    )


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run every patroller of the arguments until `stop`."""
    accept_s, report_s, *people = sys.argv[1:]
    note = sentence("demo.note", settings.lang)
    devices = [walk_tasks(demo_device(settings, one), float(accept_s), float(report_s), note) for one in people]
    running = [asyncio.create_task(device.run(), name=device.person_id) for device in devices]
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
