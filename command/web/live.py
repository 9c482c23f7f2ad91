"""The live feed: one LISTEN connection and one health watcher for everybody, a bounded queue for each listener.

Life cycle: `async with LiveHub(...)` starts the two background tasks and ends them and every listener. A listener that
does not keep up loses its queue and gets one `resync` instead: it reads everything again, so nothing is missed and
memory stays bounded. The same happens after the database connection was lost, because notifications sent meanwhile
are gone. A `tick` with the server's time goes out every `TICK_S`, so that a page can tell a dead line from
a quiet town.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psycopg

from command.store.pool import bounded
from command.web.camera_health import camera_states
from ingest.clock import Clock
from ingest.errors import GridwatchError
from ingest.health import StreamHealth

log = logging.getLogger(__name__)

CHANNEL = "gridwatch_changes"
QUEUE_MESSAGES = 256
LISTENERS = 64
TICK_S = 5.0
HEALTH_S = 1.0
CHECK_S = 20.0
RETRY_S = (0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class LiveMessage:
    """One server-sent event: its name and its data as JSON text, encoded once for all listeners."""

    name: str
    data: str


class Listener:
    """One client's queue. Used by one reader only."""

    def __init__(self, capacity: int) -> None:
        self._queue: deque[LiveMessage] = deque()
        self._capacity = capacity
        self._wake = asyncio.Event()
        self._ended = False
        self.resyncs = 0

    def offer(self, message: LiveMessage) -> None:
        """Queue a message, or replace the whole queue by one `resync` when the reader is too far behind."""
        if len(self._queue) >= self._capacity:
            self._queue.clear()
            self._queue.append(LiveMessage("resync", '{"why":"slow"}'))
            self.resyncs += 1
        self._queue.append(message)
        self._wake.set()

    def end(self) -> None:
        """No more messages: the reader finishes after what is queued."""
        self._ended = True
        self._wake.set()

    async def get(self) -> LiveMessage | None:
        """The next message, or None at the end."""
        while not self._queue:
            if self._ended:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._queue.popleft()


class LiveHub:
    """Fans database notifications and camera states out to listeners."""

    def __init__(
        self,
        conninfo: str,
        health: Callable[[], Sequence[StreamHealth]],
        clock: Clock,
        queue_messages: int = QUEUE_MESSAGES,
    ) -> None:
        self._conninfo = bounded(conninfo, application="gridwatch live")
        self._health = health
        self._clock = clock
        self._queue_messages = queue_messages
        self._listeners: set[Listener] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._states: dict[str, dict[str, Any]] = {}
        self._closed = False
        self.listening = asyncio.Event()
        self.resyncs = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._states = camera_states(self._health())
        self._tasks = [
            loop.create_task(self._listen(), name="live-listen"),
            loop.create_task(self._watch_health(), name="live-health"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def count(self) -> int:
        """How many are listening."""
        return len(self._listeners)

    def close(self) -> None:
        """End every listener, also those that join later, so that a server that waits for its answers can stop."""
        self._closed = True
        for listener in self._listeners:
            listener.end()

    def reopen(self) -> None:
        """Take listeners again after `close`."""
        self._closed = False

    def join(self) -> Listener:
        """A new listener, its first messages being the server's time and all camera states.

        Raises:
            GridwatchError: `web.live_full` beyond `LISTENERS`.
        """
        if len(self._listeners) >= LISTENERS:
            raise GridwatchError("web.live_full", limit=LISTENERS)
        listener = Listener(self._queue_messages)
        listener.offer(self._tick())
        listener.offer(LiveMessage("health", _json({"all": True, "cameras": list(self._states.values())})))
        if self._closed:
            listener.end()
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """The client is gone."""
        self.resyncs += listener.resyncs
        self._listeners.discard(listener)

    def publish(self, message: LiveMessage) -> None:
        """Give a message to every listener; never waits."""
        for listener in self._listeners:
            listener.offer(message)

    def _tick(self) -> LiveMessage:
        return LiveMessage("tick", _json({"now": self._clock.now().isoformat(), "database": self.listening.is_set()}))

    async def _listen(self) -> None:
        tries = 0
        while True:
            try:
                async with await self._connect() as conn:
                    await conn.execute(f"LISTEN {CHANNEL}")
                    self.listening.set()
                    if tries:
                        log.info("live feed listens again", extra={"tries": tries})
                        self.publish(LiveMessage("resync", '{"why":"database"}'))
                    tries = 0
                    while True:
                        async for notify in conn.notifies(timeout=CHECK_S):
                            self.publish(_change(notify.payload))
                        await conn.execute("SELECT 1")  # a connection whose other end vanished fails here
            except (psycopg.Error, OSError) as error:
                if not tries:
                    log.warning("live feed lost the database", extra={"error": str(error)})
                    self.listening.clear()
                    self.publish(self._tick())
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
            tries += 1

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        """A connection, finished and closed again when this is cancelled meanwhile.

        An abandoned half of a connection would keep its server process in the middle of the log-in, which holds up
        whoever drops the database.
        """
        connecting = asyncio.ensure_future(psycopg.AsyncConnection.connect(self._conninfo, autocommit=True))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            with contextlib.suppress(psycopg.Error, OSError):
                await (await connecting).close()
            raise

    async def _watch_health(self) -> None:
        ticked_s = self._clock.monotonic_s()
        while True:
            await asyncio.sleep(HEALTH_S)
            now = camera_states(self._health())
            changed = [state for camera_id, state in now.items() if self._states.get(camera_id) != state]
            gone = [camera_id for camera_id in self._states if camera_id not in now]
            self._states = now
            if gone:
                self.publish(LiveMessage("health", _json({"all": True, "cameras": list(now.values())})))
            elif changed:
                self.publish(LiveMessage("health", _json({"all": False, "cameras": changed})))
            if self._clock.monotonic_s() - ticked_s >= TICK_S:
                ticked_s = self._clock.monotonic_s()
                self.publish(self._tick())


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _change(payload: str) -> LiveMessage:
    """A notification: a JSON list of `{"kind", "id"}`, or one object `{"kind", "count"}` for very many.

    Any other payload still tells listeners to read again.
    """
    try:
        body = json.loads(payload)
    except ValueError:
        body = None
    if isinstance(body, dict):
        body = [body]
    if not isinstance(body, list):
        return LiveMessage("resync", '{"why":"payload"}')
    return LiveMessage("change", _json({"changes": body}))
