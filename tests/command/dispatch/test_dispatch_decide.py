"""Which events make a case, which join one, who gets it, and that nothing is made twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg

from command.dispatch.apply import apply_case_step
from command.dispatch.decide import cases_without_holder
from tests.command.dispatch.dispatch_town import happen, opened, rows

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


async def test_events_of_one_cause_within_the_cooldown_are_one_case(town: str) -> None:
    await happen(town, [opened(1, later(0)), opened(1, later(200)), opened(1, later(499))])  # in one batch
    await happen(town, [opened(1, later(700))])  # in a later one
    assert len(await rows(town, "SELECT 1 FROM cases")) == 1
    assert len(await rows(town, "SELECT 1 FROM case_events")) == 4
    assert len(await rows(town, "SELECT 1 FROM outbox")) == 1
    await happen(town, [opened(1, later(1001))])
    assert len(await rows(town, "SELECT 1 FROM cases")) == 2


async def test_other_zone_camera_or_code_is_another_case(town: str) -> None:
    await happen(
        town,
        [
            opened(1, NOON),
            opened(1, NOON, zone_id="roof"),
            opened(1, NOON, zone_id=None),
            opened(1, NOON, code="5.8"),
            opened(2, NOON),
            opened(1, NOON, camera_id=None),
            opened(1, NOON, camera_id=None),
        ],
    )
    assert len(await rows(town, "SELECT 1 FROM cases")) == 7


async def test_motion_counts_and_device_faults_make_no_case(town: str) -> None:
    await happen(town, [opened(1, code=code) for code in ("5.2", "5.9", "2.1")])
    assert not await rows(town, "SELECT 1 FROM cases")


async def test_a_replayed_batch_makes_nothing_twice(town: str) -> None:
    batch = [opened(1, NOON), opened(2, NOON)]
    await happen(town, batch)
    await happen(town, [*batch, opened(3, NOON)])
    assert len(await rows(town, "SELECT 1 FROM cases")) == 3
    assert len(await rows(town, "SELECT 1 FROM tasks")) == 3
    assert len(await rows(town, "SELECT 1 FROM outbox")) == 3


async def test_a_batch_out_of_order_joins_what_it_surrounds(town: str) -> None:
    await happen(town, [opened(1, later(600))])
    await happen(town, [opened(1, later(900)), opened(1, later(310))])
    assert len(await rows(town, "SELECT 1 FROM cases")) == 1


async def test_a_closed_case_takes_no_more_events(town: str) -> None:
    await happen(town, [opened(1, NOON)])
    (case,) = await rows(town, "SELECT case_id, revision FROM cases")
    async with await psycopg.AsyncConnection.connect(town, autocommit=True) as conn:
        await apply_case_step(conn, case["case_id"], case["revision"], "dismiss", "operator")
    await happen(town, [opened(1, later(10))])
    assert [row["state"] for row in await rows(town, "SELECT state FROM cases ORDER BY number")] == [
        "dismissed",
        "dispatched",
    ]


async def test_a_case_older_than_a_day_takes_no_more_events(town: str) -> None:
    await happen(town, [opened(1, later(hour * 3600)) for hour in range(26)], cooldown_s=3600)
    assert len(await rows(town, "SELECT 1 FROM cases")) == 2


async def test_without_grid_or_holder_the_case_waits_visibly(town: str) -> None:
    async with await psycopg.AsyncConnection.connect(town, autocommit=True) as conn:
        await conn.execute("DELETE FROM grid_roles WHERE grid_id = 'g-2'")
        await conn.execute("DELETE FROM grid_roles WHERE grid_id = 'g-3' AND role = 'patroller'")
        await conn.execute("UPDATE people SET removed_at = now() WHERE person_id = 'p-4'")
        await happen(town, [opened(1, NOON, grid_id=None), opened(2, NOON), opened(3, NOON), opened(4, NOON)])
        assert await cases_without_holder(conn) == 2
    found = await rows(
        town, "SELECT c.camera_id, c.state, c.revision, t.person_id FROM cases c LEFT JOIN tasks t USING (case_id)"
    )
    assert {row["camera_id"]: (row["state"], row["revision"], row["person_id"]) for row in found} == {
        "c-1": ("registered", 2, None),
        "c-2": ("registered", 2, None),
        "c-3": ("dispatched", 3, "l-3"),
        "c-4": ("dispatched", 3, "l-4"),
    }
    steps = await rows(town, "SELECT case_id, max(revision) AS top, count(*) AS n FROM case_steps GROUP BY case_id")
    assert all(row["top"] == row["n"] for row in steps)


async def test_two_writers_at_once_open_one_case(town: str) -> None:
    await asyncio.gather(*(happen(town, [opened(1, later(n))]) for n in range(8)))
    assert len(await rows(town, "SELECT 1 FROM cases")) == 1
    assert len(await rows(town, "SELECT 1 FROM case_events")) == 8


async def test_the_case_keeps_its_own_copy_of_the_event(town: str) -> None:
    event = opened(1, NOON)
    await happen(town, [event])
    (copy,) = await rows(town, "SELECT event FROM case_events")
    assert copy["event"]["id"] == str(event.id)
    assert copy["event"]["zone_id"] == "yard"


async def test_a_burst_is_set_wise(town: str) -> None:
    burst = [opened(1 + n % 4, NOON, zone_id=f"z{n}") for n in range(2000)]
    started = asyncio.get_running_loop().time()
    await happen(town, burst)
    took_s = asyncio.get_running_loop().time() - started
    assert len(await rows(town, "SELECT 1 FROM outbox")) == 2000
    print(f"2000 events stored and decided in {took_s:.2f} s")
    numbers = await rows(town, "SELECT count(DISTINCT number) AS n, max(number) AS top FROM cases")
    assert numbers == [{"n": 2000, "top": 2000}]
