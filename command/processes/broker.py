"""The embedded MQTT broker as a process of its own, so that 162 telephones never wait for a page."""

from __future__ import annotations

import asyncio

from command.dispatch.accounts import Accounts
from command.dispatch.broker import run_broker
from command.processes.child import beat, every, run_child
from command.settings import Settings


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`; the accounts' files are the supervisor's work."""
    ready = asyncio.Event()
    heart = settings.run / "broker.json"
    serving = asyncio.create_task(
        run_broker(settings.host, settings.mqtt_port, Accounts(settings.secrets).passwd_path, ready)
    )
    opened = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, opened}, return_when=asyncio.FIRST_COMPLETED)
    beating = asyncio.create_task(every(1.0, stop, lambda: beat(heart, "{}")))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for task in (beating, stopping, opened):
        task.cancel()
    if not serving.done():
        serving.cancel()
        await asyncio.wait({serving})
    else:
        serving.result()  # raises what ended it


if __name__ == "__main__":
    run_child("broker", main)
