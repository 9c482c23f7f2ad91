"""Units across a real Unix socket: the same on the other side, slow watchers, streams on demand, hostile clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.access_unit import AccessUnit, StreamFormat
from ingest.errors import GridwatchError
from ingest.fanout import Fanout
from ingest.tap import TapServer, open_tap

H264 = StreamFormat("h264", b"\x67abc", b"\x68d", None, 320, 180, "42c00c", 0, 25.0)
H265 = StreamFormat("hevc", b"\x42a", b"\x44b", b"\x40c", 640, 360, "", 2)


def unit(number: int, form: StreamFormat = H264, gop: int = 10, size: int = 100) -> AccessUnit:
    data = b"\0\0\0\1" + bytes([number & 0xFF]) * size
    pts = number * 3600
    return AccessUnit(
        data, (0, 50), pts, pts - 7200, number % gop == 0, 1e9 + number, 5.5, form, number % 3, number == 0
    )


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_units_are_the_same_on_the_other_side(tmp_path: Path) -> None:
    fanout = Fanout()
    released: list[tuple[str, str]] = []
    path = tmp_path / "tap"
    server = TapServer(
        path, lambda c, s: fanout if (c, s) == ("c-1", "main") else None, lambda *key: released.append(key)
    )
    await server.start()
    assert path.stat().st_mode & 0o777 == 0o600
    sent = [unit(number) for number in range(5)] + [unit(number, H265) for number in range(10, 15)]
    sent.append(replace(unit(15, H265), lost_packets=2**40))
    for one in sent[:3]:
        fanout.publish(one)
    async with open_tap(path, "c-1", "main") as units:
        got = [await anext(units)]
        assert server.watchers("c-1", "main") == 1
        for one in sent[3:]:
            fanout.publish(one)
        got += [await anext(units) for _ in sent[1:]]
    assert got[:-1] == sent[:-1] and got[-1].lost_packets == 2**32 - 1
    assert got[1].format is got[0].format
    await until(lambda: released == [("c-1", "main")] and fanout.readers == 0)
    await server.stop()
    assert not path.exists()


async def test_the_end_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tap"
    with pytest.raises(GridwatchError, match=r"tap\.no_worker"):
        async with open_tap(path, "c-1", "main"):
            pass
    fanout = Fanout()
    server = TapServer(path, lambda c, s: fanout if c == "c-1" else None)
    await server.start()
    async with open_tap(path, "c-2", "main") as units:
        with pytest.raises(GridwatchError, match=r"tap\.no_stream"):
            await anext(units)
    async with open_tap(path, "c-1", "main") as units:
        fanout.publish(unit(0))
        await until(lambda: fanout.readers == 1)
        assert (await anext(units)).is_keyframe
        fanout.close()
        with pytest.raises(GridwatchError, match=r"tap\.stream_over"):
            await anext(units)
    fanout = Fanout()
    fanout.publish(unit(0))
    async with open_tap(path, "c-1", "main") as units:
        await anext(units)
        await server.stop()
        with pytest.raises(GridwatchError, match=r"tap\.stream_over"):
            await anext(units)


async def test_a_stream_is_started_on_demand(tmp_path: Path) -> None:
    started: list[tuple[str, str]] = []
    fanout = Fanout()

    async def find(camera: str, stream: str) -> Fanout:
        await asyncio.sleep(0)
        started.append((camera, stream))
        fanout.publish(unit(0))
        return fanout

    server = TapServer(tmp_path / "tap", find)
    await server.start()
    async with open_tap(tmp_path / "tap", "c-1", "sub") as units:
        assert (await anext(units)).pts_90k == 0
    assert started == [("c-1", "sub")]
    await server.stop()


async def test_a_watcher_that_stops_reading_loses_gops_only(tmp_path: Path) -> None:
    fanout = Fanout()
    server = TapServer(tmp_path / "tap", lambda c, s: fanout)
    await server.start()
    async with open_tap(tmp_path / "tap", "c-1", "main") as units:
        await until(lambda: fanout.readers == 1)
        for number in range(3000):
            fanout.publish(unit(number, size=20_000))
            if number % 50 == 0:
                await asyncio.sleep(0)
        assert fanout.dropped_units > 500
        numbers = [(await anext(units)).pts_90k // 3600]
        while numbers[-1] < 2999:
            numbers.append((await asyncio.wait_for(anext(units), 5)).pts_90k // 3600)
    jumps = [after for before, after in zip(numbers, numbers[1:], strict=False) if after != before + 1]  # noqa: RUF007
    assert jumps and all(after % 10 == 0 for after in jumps)
    await server.stop()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.one_of(st.binary(max_size=60), st.binary(max_size=20).map(lambda b: len(b).to_bytes(4, "big") + b)))
def test_hostile_clients_do_not_hurt_the_server(tmp_path: Path, noise: bytes) -> None:
    async def run() -> None:
        fanout = Fanout()
        fanout.publish(unit(0))
        server = TapServer(tmp_path / "tap", lambda c, s: fanout if c == "c-1" else None)
        await server.start()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(tmp_path / "tap"))
            raw.sendall(noise)
        async with open_tap(tmp_path / "tap", "c-1", "main") as units:
            assert (await anext(units)).is_keyframe
        await server.stop()

    asyncio.run(run())


async def test_a_bad_server_is_told_from_a_good_one(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"U\xff\xff\xff\xff")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(answer, tmp_path / "tap")
    async with open_tap(tmp_path / "tap", "c-1", "main") as units:
        with pytest.raises(GridwatchError, match=r"tap\.bad_message"):
            await anext(units)
    server.close()
