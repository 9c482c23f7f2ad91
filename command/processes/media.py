"""The media process: live pictures. Packets come from the ingest worker's tap, and only while somebody watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from ingest.tap import open_tap

from command.processes.child import beat, every, run_child
from command.settings import Settings
from command.wall.media import create_media_app, serve_media
from ingest.access_unit import AccessUnit


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Serve WHEP on the media socket until `stop`."""

    def open_units(camera_id: str, stream: str) -> AbstractAsyncContextManager[AsyncIterator[AccessUnit]]:
        return open_tap(settings.tap_socket, camera_id, stream)

    heart = settings.run / "media.json"
    async with asyncio.TaskGroup() as group:
        group.create_task(every(1.0, stop, lambda: beat(heart, "{}")))
        await serve_media(settings.media_socket, create_media_app(open_units), stop)
        stop.set()


if __name__ == "__main__":
    run_child("media", main)
