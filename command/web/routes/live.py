"""The live feed as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent

from command.web.live import Listener
from command.web.reach import Hub
from command.web.rights import right

router = APIRouter(prefix="/api/v1", tags=["live"])


async def _listener(hub: Hub) -> AsyncIterator[Listener]:
    """A place among the listeners for as long as the answer runs; a full house is told before the answer begins."""
    listener = hub.join()
    try:
        yield listener
    finally:
        hub.leave(listener)


@router.get("/live", response_class=EventSourceResponse, dependencies=[right("live.listen")])
async def listen(listener: Listener = Depends(_listener)) -> AsyncIterator[ServerSentEvent]:  # noqa: B008
    """Changes as they happen. Events: `tick` (server's time, whether the database is heard), `health` (states of
    cameras, all or those that changed), `change` (kinds and ids of rows to read again), `resync` (read everything
    again: messages were lost)."""
    while (message := await listener.get()) is not None:
        yield ServerSentEvent(event=message.name, raw_data=message.data)
