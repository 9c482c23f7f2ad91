"""Joining at the last GOP, the byte budget, slow readers that lose whole GOPs, keyframe readers."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.access_unit import AccessUnit, StreamFormat
from ingest.fanout import Fanout, FanoutClosedError, Reader

FORM = StreamFormat("h264", b"\x67", b"\x68", None, 320, 180, "42c00c", 0)


def unit(number: int, gop: int = 10, size: int = 100) -> AccessUnit:
    data = bytes(size)
    return AccessUnit(data, (0,), number * 3600, number * 3600, number % gop == 0, number * 0.04, 0.0, FORM)


def number_of(one: AccessUnit) -> int:
    return one.pts_90k // 3600


def drained(reader: Reader) -> list[int]:
    numbers = []
    while (one := reader.get_nowait()) is not None:
        numbers.append(number_of(one))
    return numbers


def test_a_reader_joins_at_the_cached_gop() -> None:
    fanout = Fanout()
    for number in range(25):
        fanout.publish(unit(number))
    reader = fanout.join("wall")
    fanout.publish(unit(25))
    assert drained(reader) == [20, 21, 22, 23, 24, 25]
    assert [number_of(one) for one in fanout.last_gop] == [20, 21, 22, 23, 24, 25]


def test_a_gop_over_budget_is_let_go() -> None:
    fanout = Fanout(gop_budget_bytes=450)
    for number in range(6):
        fanout.publish(unit(number))
    assert fanout.last_gop == [] and fanout.over_budget_gops == 1
    reader = fanout.join("late")
    for number in range(6, 12):
        fanout.publish(unit(number))
    assert drained(reader) == [10, 11]
    assert fanout.last_keyframe is not None and number_of(fanout.last_keyframe) == 10


def test_a_slow_reader_loses_whole_gops_and_nobody_elses() -> None:
    fanout = Fanout()
    slow, quick = fanout.join("slow", capacity_units=15), fanout.join("quick", capacity_units=100)
    for number in range(40):
        fanout.publish(unit(number))
    assert drained(quick) == list(range(40)) and quick.dropped == 0
    assert drained(slow) == list(range(20, 35))  # whole GOPs went, and the tail of the last one
    assert slow.dropped == 25 and fanout.dropped_units == 25


@given(st.lists(st.integers(0, 6), max_size=80), st.integers(1, 25), st.integers(1, 12))
def test_what_a_reader_gets_can_always_be_decoded(reads: list[int], capacity: int, gop: int) -> None:
    fanout = Fanout()
    reader = fanout.join("any", capacity_units=capacity)
    got: list[int] = []
    number = 0
    for count in reads:
        for _ in range(3):
            fanout.publish(unit(number, gop))
            number += 1
        assert reader.queued_units <= capacity
        for _ in range(count):
            one = reader.get_nowait()
            if one is not None:
                got.append(number_of(one))
    got += drained(reader)
    for before, after in zip(got, got[1:], strict=False):  # noqa: RUF007
        assert after == before + 1 or (after > before and after % gop == 0)
    assert not got or got[0] % gop == 0
    skipped_tail = 0 if not got else number - 1 - got[-1]
    assert reader.dropped >= (got[-1] - got[0] + 1 - len(got) if got else 0)
    assert len(got) + reader.dropped == number or skipped_tail >= 0


def test_counts_are_exact() -> None:
    fanout = Fanout()
    reader = fanout.join("slow", capacity_units=7)
    for number in range(100):
        fanout.publish(unit(number))
    assert len(drained(reader)) + reader.dropped == 100


def test_a_keyframe_reader_is_not_woken_by_others() -> None:
    fanout = Fanout()
    for number in range(15):
        fanout.publish(unit(number))
    reader = fanout.join("watch", capacity_units=2, keyframes_only=True)
    for number in range(15, 60):
        fanout.publish(unit(number))
    assert drained(reader) == [40, 50] and reader.dropped == 3


async def test_waiting_readers_are_woken_and_told_the_end() -> None:
    fanout = Fanout()
    reader = fanout.join("one")
    got: list[int] = []

    async def read() -> None:
        got.extend([number_of(one) async for one in reader])

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    fanout.publish(unit(0))
    await asyncio.sleep(0)
    fanout.publish(unit(1))
    fanout.close()
    await asyncio.wait_for(task, 5)
    assert got == [0, 1]
    with pytest.raises(FanoutClosedError):
        await fanout.join("too late").get()


async def test_many_at_once_and_leaving() -> None:
    fanout = Fanout()
    reader = fanout.join("one")
    for number in range(5):
        fanout.publish(unit(number))
    assert [number_of(one) for one in await reader.get_many()] == [0, 1, 2, 3, 4]
    reader.close()
    assert fanout.readers == 0
    fanout.publish(unit(5))
    with pytest.raises(FanoutClosedError):
        await reader.get()


def test_a_lost_stream_is_not_joined_at_its_old_picture() -> None:
    fanout = Fanout()
    fanout.publish(unit(0))
    fanout.forget_gop()
    assert fanout.last_gop == [] and drained(fanout.join("new")) == []
