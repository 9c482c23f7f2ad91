"""The media process: live pictures. Packets come from the camera's worker's tap, and only while somebody watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from command.accepted_town import TownFile
from command.processes.child import beat, every, run_child
from command.settings import Settings
from command.wall.media import create_media_app, serve_media
from ingest.access_unit import AccessUnit
from ingest.tap import open_tap


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Serve WHEP on the media socket until `stop`."""

    published = TownFile(settings.run)

    def open_units(camera_id: str, stream: str) -> AbstractAsyncContextManager[AsyncIterator[AccessUnit]]:
        worker = published.read().workers.get(camera_id, "none")  # nobody listens there: `tap.no_worker`
        return open_tap(settings.tap_socket(worker), camera_id, stream)

    heart = settings.run / "media.json"
    async with asyncio.TaskGroup() as group:
        group.create_task(every(1.0, stop, lambda: beat(heart, "{}")))
        await serve_media(settings.media_socket, create_media_app(open_units), stop)
        stop.set()


if __name__ == "__main__":
    run_child("media", main)
