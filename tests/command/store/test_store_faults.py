"""The database dies, hangs, is cut off or stays away while events are written: none lost, none doubled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from command.store.embedded import EmbeddedPostgres
from command.store.migrate import migrate
from tests.faults.proxy import PostgresProxy


def check_whole(store: Any, events: list[Any]) -> None:
    """Every event once, closed, with exactly one copy in a case; every case with one lead task."""
    rows = store.rows("SELECT id, state FROM events")
    assert len(rows) == len({row["id"] for row in rows}) == len(events)
    assert {row["id"] for row in rows} == {event.id for event in events}
    assert {row["state"] for row in rows} == {"closed"}
    [copies] = store.rows("SELECT count(*) AS n, count(DISTINCT event_id) AS d FROM case_events")
    assert copies["n"] == copies["d"] == len(events)
    [cases] = store.rows("SELECT (SELECT count(*) FROM cases) AS c, (SELECT count(*) FROM tasks) AS t")
    assert cases["c"] == cases["t"] > 0
    assert store.rows("SELECT * FROM dead_letters") == []


async def feed(store: Any, make_event: Any, then: Any, chance: random.Random, count: int, pace_s: float) -> list[Any]:
    """Events opened and closed while whatever happens happens."""
    events = []
    for number in range(count):
        event = make_event(number * 1000, camera_id=chance.choice(["c-1", "c-2"]))
        events.append(event)
        await asyncio.to_thread(store.put, event, then(event, "updated"))
        await asyncio.sleep(chance.random() * pace_s)
        await asyncio.to_thread(store.put, then(then(event, "updated"), "closed"))
    return events


async def kill_run(server: EmbeddedPostgres, store: Any, make_event: Any, then: Any, seed: int, kills: int) -> None:
    chance = random.Random(seed)
    await asyncio.to_thread(server.start)
    migrate(server.conninfo)
    await store.sync()
    keeper = asyncio.create_task(server.keep(poll_s=0.05, longest_wait_s=0.1))
    try:
        async with store.writing(batch_rows=20):
            feeding = asyncio.create_task(feed(store, make_event, then, chance, kills * 10, 0.02))
            for _ in range(kills):
                await asyncio.sleep(chance.random() * 0.3)
                pid = server.pid
                if pid is not None:
                    victims = [pid]
                    if chance.random() < 0.4:  # a backend instead of the postmaster: the server recovers by itself
                        with contextlib.suppress(psycopg.Error, OSError):
                            victims = [
                                row["pid"]
                                for row in store.rows(
                                    "SELECT pid FROM pg_stat_activity WHERE application_name ~ 'writer'"
                                )
                            ]
                    for victim in victims:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(victim, signal.SIGKILL)
                await store.eventually(lambda: answers(server))
            events = await feeding
            await store.drained(60)
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
    check_whole(store, events)


def answers(server: EmbeddedPostgres) -> bool:
    if not server.alive():
        return False
    try:
        psycopg.connect(server.conninfo, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


async def test_killed_server_loses_and_doubles_nothing(
    own_postgres: Callable[..., EmbeddedPostgres], make_store: Any, make_event: Any, then: Any
) -> None:
    server = own_postgres()
    await asyncio.to_thread(server.start)
    await kill_run(server, make_store(server.conninfo), make_event, then, seed=5, kills=4)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_server_killed_two_hundred_times(
    own_postgres: Callable[..., EmbeddedPostgres], make_store: Any, make_event: Any, then: Any
) -> None:
    server = own_postgres()
    await asyncio.to_thread(server.start)
    await kill_run(server, make_store(server.conninfo), make_event, then, seed=6, kills=200)


async def test_cut_after_the_commit_before_the_answer(
    store: Any, postgres_proxy: PostgresProxy, make_event: Any, then: Any
) -> None:
    async with store.writing(through=postgres_proxy.conninfo) as writer:
        postgres_proxy.cut_after_commits(3)
        events = [make_event(number * 1000) for number in range(30)]
        store.put(*events)
        store.put(*[then(event, "closed") for event in events])
        await store.drained()
        assert writer.counts.tries_failed >= 3
        assert writer.counts.stale >= 30, "what had been committed was seen again and changed nothing"
    check_whole(store, events)


async def test_database_away_then_back(store: Any, postgres_proxy: PostgresProxy, make_event: Any, then: Any) -> None:
    events = [make_event(number * 1000) for number in range(20)]
    async with store.writing(through=postgres_proxy.conninfo) as writer:
        store.put(events[0])
        await store.drained()
        postgres_proxy.stop()
        for event in events:
            store.put(event, then(event, "closed"))
        await store.eventually(lambda: writer.counts.tries_failed >= 4 and not writer.connected)
        assert store.spool.count == 40
        assert writer.last_error is not None
        postgres_proxy.start()
        await store.drained()
        assert writer.connected
    check_whole(store, events)


@pytest.mark.long
async def test_database_away_for_ten_seconds(
    store: Any, postgres_proxy: PostgresProxy, make_event: Any, then: Any
) -> None:
    async with store.writing(through=postgres_proxy.conninfo):
        postgres_proxy.stop()
        feeding = asyncio.create_task(feed(store, make_event, then, random.Random(1), 100, 0.1))
        await asyncio.sleep(10)
        postgres_proxy.start()
        events = await feeding
        await store.drained()
    check_whole(store, events)


async def test_deaf_server_counts_as_gone(
    store: Any, postgres_proxy: PostgresProxy, make_event: Any, then: Any
) -> None:
    """Connected, but nothing is answered any more: the writer cuts the line itself and takes a new one."""
    events = [make_event(number * 1000) for number in range(5)]
    async with store.writing(through=postgres_proxy.conninfo, answer_timeout_s=0.6) as writer:
        store.put(events[0], then(events[0], "closed"))
        await store.drained()
        postgres_proxy.deaf = True
        for event in events[1:]:
            store.put(event, then(event, "closed"))
        await store.eventually(lambda: writer.counts.tries_failed >= 1)
        postgres_proxy.deaf = False
        await store.drained()
    check_whole(store, events)


async def test_locked_table_is_waited_out(store: Any, make_event: Any, then: Any) -> None:
    """Statements that end by their time limit cost a repetition with fewer rows, nothing else."""
    events = [make_event(number * 1000) for number in range(100)]
    async with store.writing(answer_timeout_s=0.6) as writer:
        with psycopg.connect(store.conninfo) as blocker:
            blocker.execute("LOCK TABLE events IN EXCLUSIVE MODE")
            for event in events:
                store.put(event, then(event, "closed"))
            await store.eventually(lambda: writer.counts.tries_failed >= 2)
            blocker.rollback()
        await store.drained()
    check_whole(store, events)


async def test_writer_stopped_at_any_moment(store: Any, make_event: Any, then: Any) -> None:
    chance = random.Random(9)
    events = [make_event(number * 1000) for number in range(40)]
    for event in events:
        store.put(event, then(event, "closed"))
    while store.spool.count:
        async with store.writing(batch_rows=20):
            await asyncio.sleep(chance.random() * 0.25)
    check_whole(store, events)
