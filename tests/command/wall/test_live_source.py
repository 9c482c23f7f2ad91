"""The shared source: payloads, timeline, and readers that start at keyframes and lose whole GOPs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiortc.codecs.h264 import h264_depayload

from command.wall import live_source
from command.wall.live_source import LiveSources
from command.wall.packetise import PAYLOAD_MAX_BYTES, packetise
from command.wall.timeline import CATCH_UP_STEP, Timeline
from ingest.access_unit import AccessUnit
from ingest.clock import ManualClock


def at(clip, number: int, received_s: float = 1000.0, **changes: object) -> AccessUnit:
    return replace(clip.unit(number), received_s=received_s, **changes)


def test_payloads_carry_every_nal_unit_except_delimiters_and_filler(clip) -> None:
    for number in (0, 1, 2):
        unit = clip.unit(number)
        with_filler = replace(
            unit,
            data=b"\x00\x00\x00\x01\x09\xf0" + unit.data + b"\x00\x00\x00\x01\x0c\xff\xff\x80",
            nal_offsets=(0, *(offset + 6 for offset in unit.nal_offsets), 6 + len(unit.data)),
        )
        packed = packetise(with_filler, 7)
        assert all(len(payload) <= PAYLOAD_MAX_BYTES for payload in packed.payloads)
        assert b"".join(h264_depayload(payload) for payload in packed.payloads) == unit.data
        assert (packed.timestamp, packed.is_keyframe) == (7, number == 0)
        assert packed.size_bytes == sum(map(len, packed.payloads))


@pytest.mark.parametrize("size", [1, 2, 1197, 1198, 1199, 1200, 1201, 1202, 2397, 5000])
def test_nal_units_of_every_size_come_through(clip, size) -> None:
    nals = [bytes((0x67,)) + b"\x11" * 20, bytes((0x65,)) + bytes(i % 251 + 1 for i in range(size - 1)), b"\x68\x22"]
    data, offsets = b"", []
    for nal in nals:
        offsets.append(len(data))
        data += b"\x00\x00\x00\x01" + nal
    packed = packetise(replace(clip.unit(0), data=data, nal_offsets=tuple(offsets)), 0)
    assert all(0 < len(payload) <= PAYLOAD_MAX_BYTES for payload in packed.payloads)
    whole = b"".join(h264_depayload(payload) for payload in packed.payloads if len(payload) > 1)
    if size > 1:  # aiortc refuses a lone one-byte NAL unit
        assert whole == data


def test_timeline_follows_media_time_and_takes_jumps_out(clip) -> None:
    timeline = Timeline()
    first = timeline.stamp(at(clip, 10, 1000.0), 1000.0)
    assert timeline.stamp(at(clip, 11, 1000.04), 1000.04) == first + 3600
    backwards = timeline.stamp(at(clip, 2, 1000.08), 1000.08)
    assert backwards == first + 7200
    ahead = timeline.stamp(at(clip, 100_000, 1000.12), 1000.12)
    assert ahead == first + 10_800
    flagged = timeline.stamp(at(clip, 100_001, 1002.12, discontinuity=True), 1002.12)
    assert flagged == ahead + 180_000


def test_backlog_is_stamped_to_be_shown_in_an_instant(clip) -> None:
    timeline = Timeline()
    stamps = [timeline.stamp(at(clip, number, 998.0 + number / 25), 1000.0) for number in range(50)]
    assert {b - a for a, b in itertools.pairwise(stamps[:40])} == {CATCH_UP_STEP}
    assert all(b > a for a, b in itertools.pairwise(stamps))
    assert timeline.stamp(at(clip, 50, 1000.0), 1000.0) - stamps[-1] == 3600


class Feed:
    """One camera whose units a test hands over one by one."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.queue: asyncio.Queue[AccessUnit] = asyncio.Queue()
        self.queue_read = asyncio.Event()
        self.sources = LiveSources(self.open_units, self.clock)

    @contextlib.asynccontextmanager
    async def open_units(self, camera: str, stream: str) -> AsyncIterator[AsyncIterator[AccessUnit]]:
        async def read() -> AsyncIterator[AccessUnit]:
            while True:
                yield await self.queue.get()
                self.queue_read.set()  # the source has taken it

        yield read()

    async def put(self, *units: AccessUnit) -> None:
        for unit in units:
            self.queue.put_nowait(unit)
            self.queue_read.clear()
            await self.queue_read.wait()


async def test_reader_starts_at_the_newest_keyframe_in_an_instant_and_goes_on_live(clip) -> None:
    feed = Feed()
    source = feed.sources.acquire("c", "main")
    await feed.put(*(at(clip, number) for number in range(60)))  # GOPs begin at 0 and 50
    reader = source.join()
    await feed.put(at(clip, 60))
    got = [await reader.get() for _ in range(11)]
    assert [unit.is_keyframe for unit, _ in got] == [True] + [False] * 10
    stamps = [stamp for _, stamp in got]
    assert [b - a for a, b in itertools.pairwise(stamps)] == [CATCH_UP_STEP] * 9 + [3600]
    reader.restart()
    again = [await reader.get() for _ in range(11)]
    assert again[0][0].is_keyframe
    assert stamps[-1] < again[0][1]
    assert again[-1][1] < stamps[-1] + 3600  # before the next live frame
    assert all(b[1] > a[1] for a, b in itertools.pairwise(again))
    await feed.sources.release(source)


async def test_gop_that_is_too_long_shows_its_keyframe_until_the_next_one(clip, monkeypatch) -> None:
    monkeypatch.setattr(live_source, "BURST_MAX_UNITS", 20)
    feed = Feed()
    source = feed.sources.acquire("c", "main")
    await feed.put(*(at(clip, number) for number in range(40)))
    reader = source.join()
    await feed.put(*(at(clip, number) for number in range(40, 52)))
    got = [await reader.get() for _ in range(3)]
    assert [unit.is_keyframe for unit, _ in got] == [True, True, False]
    assert not reader.behind
    await feed.sources.release(source)


async def test_slow_reader_loses_whole_gops_counted_and_the_others_nothing(clip, monkeypatch) -> None:
    monkeypatch.setattr(live_source, "READER_MAX_UNITS", 30)
    monkeypatch.setattr(live_source, "BURST_MAX_UNITS", 60)
    feed = Feed()
    source = feed.sources.acquire("c", "main")
    await feed.put(at(clip, 0))
    slow, quick = source.join(), source.join()
    for number in range(1, 130):
        await feed.put(at(clip, number))
        await quick.get()
    await quick.get()
    assert (quick.dropped_units, quick.behind) == (0, False)
    assert slow.dropped_units == 100  # GOPs 0 and 50, whole
    first, _ = await slow.get()
    assert first.is_keyframe
    for _ in range(29):
        await slow.get()
    assert not slow.behind
    source.leave(slow)
    assert source.dropped_units == 100
    await feed.sources.release(source)
