"""What the API reads: filters, pages that never shift, and everything that belongs to a case."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from command.store import queries
from command.store.pool import open_pool
from command.store.queries import EventFilter
from command.store.rows import cursor_of, place_of
from command.store.town import sync_town
from ingest.errors import GridwatchError
from ingest.event import new_id

Conn = psycopg.AsyncConnection[Any]


@pytest.fixture
async def conn(store: Any) -> AsyncIterator[Conn]:
    async with await psycopg.AsyncConnection.connect(store.conninfo, autocommit=True) as connection:
        yield connection


async def fill(store: Any, *events: Any) -> None:
    async with store.writing():
        store.put(*events)
        await store.drained()


async def test_events_by_every_filter(store: Any, conn: Conn, make_event: Any) -> None:
    first = make_event(0)
    second = make_event(1000, camera_id="c-2", code="5.8", state="closed")
    far = make_event(2000, camera_id=None, zone_id=None, lon=1.0, lat=1.0)
    await fill(store, first, second, far)

    async def found(**chosen: Any) -> list[Any]:
        return [row["id"] for row in (await queries.events(conn, EventFilter(**chosen))).items]

    assert await found() == [far.id, second.id, first.id]
    assert await found(camera_id="c-2") == [second.id]
    assert await found(village="East") == [second.id, first.id]
    assert await found(grid_id="g-0") == [first.id]
    assert await found(code="5.8") == [second.id]
    assert await found(state="opened") == [far.id, first.id]
    assert await found(since=second.started_at) == [far.id, second.id]
    assert await found(until=second.started_at) == [first.id]
    assert await found(camera_id="c-1", code="5.8") == []
    row = await queries.event(conn, first.id)
    assert row is not None
    assert (row["camera_name"], row["grid_name"], row["case_number"]) == ("Camera c-1", "Grid 0", 1)
    assert await queries.event(conn, new_id()) is None


async def test_pages_cover_everything_once_while_rows_arrive(store: Any, conn: Conn, make_event: Any) -> None:
    same_moment = [make_event(0) for _ in range(7)]
    events = [*same_moment, *[make_event(i) for i in range(1, 10)]]
    await fill(store, *events)
    seen: list[Any] = []
    cursor = None
    while True:
        page = await queries.events(conn, EventFilter(), limit=3, cursor=cursor)
        seen += [row["id"] for row in page.items]
        cursor = page.next
        if cursor is None:
            break
        if len(seen) == 6:
            await fill(store, make_event(5000))  # newer than all: belongs to a page already read
    assert len(seen) == len(set(seen)) == len(events)
    assert set(seen) == {event.id for event in events}


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "AAAA", "MjAyNi0wMS0wMSB4", "é"])
async def test_made_up_cursor_is_told(conn: Conn, cursor: str) -> None:
    with pytest.raises(GridwatchError, match=r"store\.bad_cursor"):
        await queries.events(conn, EventFilter(), cursor=cursor)


def test_cursor_round_trip(make_event: Any) -> None:
    event = make_event(3)
    assert place_of(cursor_of(event.started_at, event.id)) == (event.started_at, event.id)


async def test_case_with_all_that_belongs_to_it(store: Any, conn: Conn, make_event: Any) -> None:
    first, second, other = make_event(0), make_event(60), make_event(5000, camera_id="c-2")
    await fill(store, first, second, other)
    page = await queries.cases(conn)
    assert [row["grid_id"] for row in page.items] == ["g-1", "g-0"]
    [row] = (await queries.cases(conn, grid_id="g-0")).items
    assert (row["event_count"], row["grid_name"], row["camera_name"]) == (2, "Grid 0", "Camera c-1")
    assert row["lead_task"]["person_name"] == "Name of patroller-0"
    assert row["lead_task"]["confirmed"] is False
    assert (await queries.cases(conn, state="closed")).items == []
    case = await queries.case(conn, row["case_id"])
    assert case is not None
    assert [event["id"] for event in case["events"]] == [str(first.id), str(second.id)]
    assert case["events"][0]["camera_name"] == "Camera c-1"
    assert [step["step"] for step in case["steps"]] == ["collect", "register", "dispatch"]
    assert case["tasks"] == [case["lead_task"]]
    assert await queries.case(conn, new_id()) is None

    [task] = (await queries.tasks(conn, person_id="patroller-0")).items
    assert (await queries.tasks(conn, person_id="patroller-0", state="done")).items == []
    assert task["case_number"] == row["number"]
    one = await queries.task(conn, task["task_id"])
    assert one is not None
    assert [step["to_state"] for step in one["steps"]] == ["offered"]
    assert await queries.task(conn, new_id()) is None

    counts = await queries.counts(conn)
    assert counts == {"events": 3, "open_cases": 2, "unconfirmed_tasks": 2, "outbox_open": 2, "dead_letters": 0}


async def test_cameras_and_grids(store: Any, conn: Conn) -> None:
    assert [row["camera_id"] for row in await queries.cameras(conn)] == ["c-1", "c-2"]
    camera = await queries.camera(conn, "c-1")
    assert camera is not None
    assert (camera["zones"][0]["id"], camera["removed"]) == ("door", False)
    assert await queries.camera(conn, "c-9") is None
    grid = (await queries.grids(conn))[0]
    assert grid["geometry"]["type"] == "Polygon"
    assert grid["roles"]["leader"] == "Name of leader-0"
    assert grid["holders"]["leader"] == "leader-0"


async def test_pool_outlives_a_cut_of_all_connections(store: Any) -> None:
    async with open_pool(store.conninfo, max_size=2) as pool:
        async with pool.connection() as conn:
            assert (await queries.counts(conn))["events"] == 0
        with psycopg.connect(store.conninfo, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        async with pool.connection() as conn:
            assert (await queries.counts(conn))["events"] == 0
        with pytest.raises(psycopg.errors.QueryCanceled):
            async with open_pool(store.conninfo, statement_timeout_s=0.05) as hasty, hasty.connection() as conn:
                await conn.execute("SELECT pg_sleep(5)")


async def test_case_keeps_its_events_when_the_table_forgets_them(store: Any, conn: Conn, make_event: Any) -> None:
    event = make_event()
    await fill(store, event)
    await conn.execute("DELETE FROM events")
    [row] = (await queries.cases(conn)).items
    case = await queries.case(conn, row["case_id"])
    assert case is not None
    assert [copy["id"] for copy in case["events"]] == [str(event.id)]


async def test_event_shows_the_grid_s_name_of_its_day(
    store: Any, conn: Conn, make_event: Any, make_grids: Any, make_streams: Any
) -> None:
    event = make_event(started_at=datetime.now(UTC))
    await fill(store, event)
    grids = make_grids()
    first = grids.features[0]
    renamed = first.model_copy(update={"properties": first.properties.model_copy(update={"name": "Renamed"})})
    await sync_town(conn, make_streams(), grids.model_copy(update={"features": [renamed, *grids.features[1:]]}))
    later = make_event(started_at=datetime.now(UTC) + timedelta(hours=1))
    await fill(store, later)
    names = [row["grid_name"] for row in (await queries.events(conn, EventFilter())).items]
    assert names == ["Renamed", "Grid 0"]


def test_filters_are_plain_values() -> None:
    assert replace(EventFilter(), code="5.6").conditions() == (["e.code = %(code)s"], {"code": "5.6"})
