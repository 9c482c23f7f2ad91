"""The writer: each event once, the last word wins, a bad row stands aside, faults of the database are waited out."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from command.store.rows import StoredEvent
from command.store.town import Town
from command.store.writer import fault_of
from ingest.event import Box, Event, Evidence
from ingest.spool import Spool

STATES = ("opened", "updated", "closed")


async def nothing(conn: psycopg.AsyncConnection[Any], events: Sequence[StoredEvent]) -> None:
    """No cases."""


async def test_event_with_all_its_facts_becomes_a_row_a_case_and_a_task(store: Any, make_event: Any) -> None:
    at = make_event().started_at
    event = make_event(
        score=0.75,
        object_class="person",
        box=Box(x=0.1, y=0.2, w=0.3, h=0.4),
        evidence=(Evidence(sha256="ab" * 32, media_type="image/jpeg", taken_at=at, width=640, height=360),),
        attributes={"note": "校门口", "n": 3},
        emitted_at=at,
    )
    async with store.writing() as writer:
        store.put(event)
        await store.drained()
    [row] = store.rows()
    assert (row["id"], row["state"], row["revision"]) == (event.id, "opened", 1)
    assert (row["grid_id"], row["grid_match"], row["village"]) == ("g-0", "inside", "East")
    assert (row["lon"], row["lat"]) == (116.005, 38.405), "its camera's place"
    assert row["box"] == {"x": 0.1, "y": 0.2, "w": 0.3, "h": 0.4}
    assert row["evidence"][0]["sha256"] == "ab" * 32
    assert row["attributes"] == {"note": "校门口", "n": 3}
    assert Event.model_validate({name: row[name] for name in Event.model_fields}).id == event.id
    [case] = store.rows("SELECT * FROM cases")
    [task] = store.rows("SELECT * FROM tasks")
    assert (case["grid_id"], task["person_id"]) == ("g-0", "patroller-0")
    assert (writer.counts.new, writer.counts.dead) == (1, 0)


async def test_one_row_an_event_through_its_life_and_its_case_s_copy_follows(
    store: Any, make_event: Any, then: Any
) -> None:
    opened = make_event()
    async with store.writing() as writer:
        store.put(opened)
        await store.drained()
        closed = then(then(opened, "updated", score=0.9), "closed", ended_at=opened.started_at + timedelta(seconds=9))
        store.put(then(opened, "updated", score=0.9))
        await store.drained()
        store.put(closed)
        await store.drained()
    [row] = store.rows()
    assert (row["state"], row["revision"], row["ended_at"]) == ("closed", 3, closed.ended_at)
    [copy] = store.rows("SELECT event FROM case_events")
    assert (copy["event"]["state"], copy["event"]["score"]) == ("closed", 0.9)
    assert writer.counts.changed == 2
    assert len(store.rows("SELECT * FROM cases")) == 1


async def test_update_after_the_closing_is_refused_and_counted_unless_a_newer_epoch_says_so(
    store: Any, make_event: Any, then: Any
) -> None:
    opened = make_event()
    closed = then(opened, "closed")
    late = then(closed, "updated", score=0.1)
    async with store.writing() as writer:
        for event in (opened, closed, late, opened):  # a batch each
            store.put(event)
            await store.drained()
        assert [row["state"] for row in store.rows()] == ["closed"]
        assert (writer.counts.refused, writer.counts.stale) == (1, 1)
        other = make_event(5)
        store.put(other, then(other, "closed"), then(then(other, "closed"), "updated"))  # one batch
        await store.drained()
        assert [row["state"] for row in store.rows()] == ["closed", "closed"]
        assert (writer.counts.refused, writer.counts.superseded) == (2, 1)
        store.put(late.model_copy(update={"epoch": 2, "number": 0}))
        await store.drained()
        assert [row["state"] for row in store.rows()] == ["updated", "closed"]


async def test_memory_and_database_agree_on_the_last_word(store: Any, make_event: Any) -> None:
    """The same statements in the same order, told in one batch or one by one, leave the same row."""
    chance = random.Random(11)
    together, apart = [], []
    for number in range(60):
        event = make_event(number)
        twin = event.model_copy(update={"id": make_event().id})
        told = [
            {"epoch": epoch, "number": count, "state": state}
            for epoch, count, state in zip(
                chance.choices([1, 2, 3], k=6), chance.choices(range(4), k=6), chance.choices(STATES, k=6), strict=True
            )
        ]
        together.append([event.model_copy(update=changes) for changes in told])
        apart.append([twin.model_copy(update=changes) for changes in told])
    async with store.writing(decide=nothing):
        store.put(*[statement for statements in together for statement in statements])
        await store.drained()
        for position in range(6):
            store.put(*[statements[position] for statements in apart])
            await store.drained()
    rows = {row["id"]: (row["epoch"], row["number"], row["state"]) for row in store.rows()}
    for batch, single in zip(together, apart, strict=True):
        assert rows[batch[0].id] == rows[single[0].id], [(s.epoch, s.number, s.state) for s in batch]


async def test_bad_rows_stand_aside_with_their_reason_and_block_nobody(store: Any, make_event: Any, then: Any) -> None:
    chance = random.Random(3)
    good = [make_event(i) for i in range(300)]
    nul = make_event(400, attributes={"note": "a\x00b"})
    too_big = make_event(401, epoch=2**70)
    moved = good[7].model_copy(
        update={"number": 999, "state": "updated", "started_at": good[7].started_at + timedelta(seconds=1)}
    )
    bad_update = then(good[9], "updated", attributes={"x": "\x00"})
    rows = [("event", event.model_dump_json()) for event in good]
    for bad in ("{not json", '{"id": "x"}', nul.model_dump_json(), too_big.model_dump_json()):
        rows.insert(chance.randrange(len(rows)), ("event", bad))
    rows.append(("event", bad_update.model_dump_json()))
    async with store.writing(decide=nothing) as writer:
        store.spool.put_many(rows)
        await store.drained()
        store.put(moved)
        await store.drained()
    assert store.ids() == {event.id for event in good}
    dead = store.rows("SELECT * FROM dead_letters ORDER BY seq")
    assert len(dead) == writer.counts.dead == 6
    assert all(letter["reason"] and letter["spool"] == store.spool.id for letter in dead)
    assert {json.loads(letter["body"]).get("id") for letter in dead if letter["body"].startswith('{"id"')} >= {
        str(event.id) for event in (nul, too_big, moved, bad_update)
    }
    assert "started_at_moved" in dead[-1]["reason"]


async def test_failing_case_decision_costs_the_event_its_case_but_not_its_row(store: Any, make_event: Any) -> None:
    events = [make_event(i) for i in range(40)]

    async def choosy(conn: psycopg.AsyncConnection[Any], new: Sequence[StoredEvent]) -> None:
        if any(stored.id == events[13].id for stored in new):
            raise RuntimeError("no opinion about this one")
        await conn.execute("INSERT INTO people SELECT x, x FROM unnest(%s::text[]) x", ([str(e.id) for e in new],))

    async with store.writing(decide=choosy):
        store.put(*events)
        await store.drained()
    assert len(store.ids()) == 40
    [letter] = store.rows("SELECT * FROM dead_letters")
    assert "without a case" in letter["reason"]
    assert "no opinion" in letter["reason"]
    decided = {row["name"] for row in store.rows("SELECT name FROM people")}
    assert {str(event.id) for event in events} - decided == {str(events[13].id)}


async def test_missing_table_is_the_database_s_fault_and_waits_for_its_migration(store: Any, make_event: Any) -> None:
    _execute(store, "ALTER TABLE events RENAME TO away")
    async with store.writing(decide=nothing) as writer:
        store.put(make_event())
        await store.eventually(lambda: writer.counts.tries_failed >= 2)
        assert store.rows("SELECT * FROM dead_letters") == []
        _execute(store, "ALTER TABLE away RENAME TO events")
        await store.drained()
    assert len(store.ids()) == 1


def _execute(store: Any, statement: str) -> None:
    with psycopg.connect(store.conninfo, autocommit=True) as connection:
        connection.execute(statement.encode())


async def test_rows_of_other_kinds_are_left_to_their_reader(store: Any, make_event: Any) -> None:
    store.spool.put("answer", "mine")
    async with store.writing(decide=nothing):
        store.put(make_event())
        await store.eventually(lambda: store.spool.count == 1)
    assert [row.body for row in store.spool.read(9)] == ["mine"]
    assert store.rows("SELECT * FROM dead_letters") == []


async def test_every_spool_of_the_folder_is_drained_also_those_that_come_later(store: Any, make_event: Any) -> None:
    async with store.writing(decide=nothing):
        store.put(make_event(1))
        await store.drained()
        late = Spool(store.folder / "w1.spool", reserve_bytes=0)
        late.put("event", make_event(2).model_dump_json())
        await store.eventually(lambda: late.count == 0)
        late.close()
    assert len(store.ids()) == 2


async def test_pages_and_the_relay_are_told_and_it_is_quick(store: Any, make_event: Any) -> None:
    async with (
        store.writing(),
        await psycopg.AsyncConnection.connect(store.conninfo, autocommit=True) as conn,
    ):
        await conn.execute("LISTEN gridwatch_changes")
        await conn.execute("LISTEN gridwatch_outbox")
        heard: list[tuple[float, str, str]] = []

        async def hear() -> None:
            async for notice in conn.notifies():
                heard.append((time.perf_counter(), notice.channel, notice.payload))  # noqa: PERF401 - dated as it comes

        hearing = asyncio.create_task(hear())
        took_s = []
        for number in range(10):
            event = make_event(number * 1000)
            told = time.perf_counter()
            await asyncio.to_thread(store.put, event)
            await store.eventually(lambda known=str(event.id): any(known in payload for _, _, payload in heard))
            took_s.append(next(at for at, _, payload in heard if str(event.id) in payload) - told)
        assert sorted(took_s)[5] < 0.1, f"event on disk to committed: {took_s}"
        assert any(channel == "gridwatch_outbox" for _, channel, _ in heard)
        store.put(*[make_event(20_000 + i, camera_id=f"c-{'x' * 300}") for i in range(300)])
        await store.drained()
        await store.eventually(lambda: sum(payload.count('"event"') for _, _, payload in heard) >= 310)
        store.put(*[make_event(40_000 + i) for i in range(1000)])
        await store.eventually(lambda: any('"events"' in payload for _, _, payload in heard))
        hearing.cancel()


def test_places(make_event: Any, town: Town) -> None:
    placed = town.place(
        [
            make_event(camera_id="c-2"),
            make_event(camera_id="c-1", lon=116.015, lat=38.405),
            make_event(camera_id="c-1", lon=120.0, lat=38.405),
            make_event(camera_id="gone"),
            make_event(camera_id=None, lon=116.001, lat=38.401),
        ]
    )
    assert [(p.grid_id, p.grid_match, p.village) for p in placed] == [
        ("g-1", "inside", "East"),
        ("g-1", "inside", "East"),
        ("g-1", "nearest", "East"),
        (None, "none", None),
        ("g-0", "inside", "East"),
    ]


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (psycopg.errors.UniqueViolation(), "row"),
        (psycopg.errors.NumericValueOutOfRange(), "row"),
        (psycopg.errors.ProgramLimitExceeded(), "row"),
        (psycopg.DataError(), "row"),
        (KeyError("x"), "row"),
        (psycopg.OperationalError(), "database"),
        (psycopg.InterfaceError(), "database"),
        (psycopg.errors.QueryCanceled(), "database"),
        (psycopg.errors.DiskFull(), "database"),
        (psycopg.errors.ReadOnlySqlTransaction(), "database"),
        (psycopg.errors.DeadlockDetected(), "database"),
        (psycopg.errors.AdminShutdown(), "database"),
        (ConnectionResetError(), "database"),
        (psycopg.errors.UndefinedTable(), "unsure"),
        (psycopg.errors.InternalError_(), "unsure"),
    ],
)
def test_whose_fault(error: Exception, fault: str) -> None:
    assert fault_of(error) == fault
