"""The live feed over real HTTP and real notifications; the bounded queue of a slow listener; losing the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from command.store.embedded import EmbeddedPostgres
from command.web.live import LISTENERS, Listener, LiveHub, LiveMessage, _change
from command.web.server import WebServer
from ingest.clock import SystemClock
from ingest.errors import GridwatchError
from ingest.health import CameraState

Feed = AsyncIterator[tuple[str, Any]]


@asynccontextmanager
async def listening(server: WebServer) -> AsyncIterator[Feed]:
    async with (
        httpx.AsyncClient(timeout=10) as client,
        client.stream("GET", f"{server.url}api/v1/live") as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def messages() -> Feed:
            name = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    yield name, json.loads(line[6:])

        yield messages()


async def next_of(feed: Feed, wanted: str) -> Any:
    async with asyncio.timeout(10):
        async for name, data in feed:
            if name == wanted:
                return data
    raise AssertionError(f"the feed ended before {wanted}")


async def test_listener_hears_time_states_and_changes(town: Any, app: FastAPI, server: WebServer) -> None:
    await asyncio.wait_for(app.state.live.listening.wait(), 10)
    async with listening(server) as feed, listening(server) as other:
        tick = await next_of(feed, "tick")
        assert tick["database"] is True
        health = await next_of(feed, "health")
        assert (health["all"], len(health["cameras"])) == (True, 24)
        event_id = town.add_event(1, 0)
        for one in (feed, other):
            change = await next_of(one, "change")
            assert {"kind": "event", "id": str(event_id)} in change["changes"]
        town.set_state("c-001", CameraState.STALLED)
        health = await next_of(feed, "health")
        assert [(one["camera_id"], one["state"]) for one in health["cameras"]] == [("c-001", "stalled")]
        assert app.state.live.count == 2
    async with asyncio.timeout(5):
        while app.state.live.count:  # noqa: ASYNC110 - the server notices a closed connection by itself
            await asyncio.sleep(0.02)


async def test_one_connection_listens_for_everybody(town: Any, app: FastAPI, server: WebServer) -> None:
    await asyncio.wait_for(app.state.live.listening.wait(), 10)
    async with listening(server) as one, listening(server) as two, listening(server) as three:
        for feed in (one, two, three):
            await next_of(feed, "tick")
        with psycopg.connect(town.conninfo) as conn:
            found = conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'"
            ).fetchone()
        assert found == (1,)


async def test_slow_listener_loses_its_queue_and_is_told_to_read_again() -> None:
    listener = Listener(capacity=4)
    for number in range(7):
        listener.offer(LiveMessage("change", str(number)))
    got = []
    for _ in range(3):
        message = await listener.get()
        assert message is not None
        got.append((message.name, message.data))
    assert got == [("resync", '{"why":"slow"}'), ("change", "4"), ("change", "5")]
    assert listener.resyncs == 1
    listener.end()
    assert (await listener.get(), await listener.get()) == (LiveMessage("change", "6"), None)


def test_notifications_of_every_form_reach_listeners() -> None:
    assert json.loads(_change('[{"kind":"case","id":"1"}]').data) == {"changes": [{"kind": "case", "id": "1"}]}
    assert json.loads(_change('{"kind":"events","count":900}').data) == {"changes": [{"kind": "events", "count": 900}]}
    assert [_change(payload).name for payload in ("", "x", "3")] == ["resync"] * 3


async def test_house_is_full(town: Any) -> None:
    hub = LiveHub(town.conninfo, lambda: town.health, SystemClock())
    for _ in range(LISTENERS):
        hub.join()
    with pytest.raises(GridwatchError, match="live_full"):
        hub.join()


async def test_loss_of_the_database_is_told_and_followed_by_a_resync(own_postgres: Any) -> None:
    database: EmbeddedPostgres = own_postgres()
    conninfo = await asyncio.to_thread(database.start)
    async with LiveHub(conninfo, list, SystemClock()) as hub:
        await asyncio.wait_for(hub.listening.wait(), 10)
        listener = hub.join()
        await asyncio.to_thread(database.stop)
        assert await data_of(listener, "tick", lambda data: not data["database"])
        await asyncio.to_thread(database.start)
        assert await data_of(listener, "resync", lambda data: data["why"] == "database")
        with psycopg.connect(conninfo) as conn:
            conn.execute('SELECT pg_notify(\'gridwatch_changes\', \'[{"kind":"case","id":"1"}]\')')
        assert await data_of(listener, "change", lambda data: data["changes"][0]["id"] == "1")


async def data_of(listener: Listener, name: str, fits: Any) -> Any:
    async with asyncio.timeout(20):
        while (message := await listener.get()) is not None:
            if message.name == name and fits(data := json.loads(message.data)):
                return data
    return None


async def test_server_stops_at_once_with_listeners_connected(app: FastAPI) -> None:
    async with WebServer(app, "127.0.0.1", 0) as server, listening(server) as feed:
        await next_of(feed, "tick")
        async with asyncio.timeout(2):
            await server.__aexit__(None, None, None)
