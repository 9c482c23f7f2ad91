"""The whole way of a packet: fan-out of an ingest worker, tap socket, media process, viewer."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from ingest.fanout import Fanout
from ingest.tap import TapServer, open_tap


@pytest.fixture
def tap_path(tmp_path):
    return tmp_path / "tap.sock"


@pytest.fixture
async def fanout(camera):
    """What a worker keeps of `camera`."""
    kept = Fanout("c-1/main")

    async def feed() -> None:
        async with camera.units() as units:
            async for unit in units:
                kept.publish(unit)

    feeding = asyncio.create_task(feed())
    yield kept
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)


async def test_pictures_come_through_and_return_after_the_worker_restarts(
    wall, tap_path, fanout, viewer_of, until
) -> None:
    wall.open_through(lambda camera, stream: open_tap(tap_path, camera, stream))
    first = TapServer(tap_path, _fanouts(fanout))
    await first.start()
    viewer = viewer_of(wall, "c-1")
    await viewer.watch()
    numbers = [await viewer.number() for _ in range(40)]
    assert {(b - a) % 100 for a, b in itertools.pairwise(numbers)} == {1}
    await first.stop()
    second = TapServer(tap_path, _fanouts(fanout))
    await second.start()
    await until(lambda: second.watchers("c-1", "main") == 1)
    before = numbers[-1]
    numbers = [await viewer.number() for _ in range(60)]
    assert numbers[-1] != before
    assert (await wall.http.delete(viewer.session)).status_code == 200
    await until(lambda: second.watchers("c-1", "main") == 0)
    await second.stop()


async def test_refusals_of_the_worker_have_their_status(wall, tap_path, fanout, viewer_of) -> None:
    wall.open_through(lambda camera, stream: open_tap(tap_path, camera, stream))
    offer = await viewer_of(wall, "c-1").offer()
    headers = {"content-type": "application/sdp"}
    away = await wall.http.post("/whep/c-1/main", content=offer, headers=headers)
    assert (away.status_code, away.json()["code"]) == (503, "tap.no_worker")
    server = TapServer(tap_path, _fanouts(fanout))
    await server.start()
    unknown = await wall.http.post("/whep/c-9/main", content=offer, headers=headers)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "tap.no_stream")
    await server.stop()


def _fanouts(fanout: Fanout):
    return lambda camera, stream: fanout if (camera, stream) == ("c-1", "main") else None
