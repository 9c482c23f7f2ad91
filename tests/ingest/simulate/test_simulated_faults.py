"""Every fault that a simulated camera can show, by URL, by call and by HTTP, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time

import httpx
import pytest

from ingest.simulate import ClipLibrary, Fault, FaultKind, SimCamera, SimulatedTown


async def _closes(client) -> bool:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        await client.ask("DESCRIBE")
        return False
    return True


async def _silent(client, quiet_s: float = 0.4) -> bool:
    try:
        await asyncio.wait_for(client.ask("OPTIONS"), quiet_s)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize(
    ("fault", "status"), [("unauthorised", 401), ("not_found", 404), ("refuse", None), ("hang", 0), ("silent", 0)]
)
async def test_faults_while_connecting(town, connect, fault: str, status: int | None) -> None:
    async with connect(town.url("cam-1", fault=fault)) as client:
        if status is None:
            assert await _closes(client)
        elif status == 0:
            assert await _silent(client)
        else:
            assert (await client.ask("DESCRIBE")).status == status
    async with connect(town.url("cam-1")) as client:
        assert (await client.ask("DESCRIBE")).status == 200


async def test_session_limit_is_met_at_setup(town, connect) -> None:
    async with connect(town.url("cam-1", fault="session_limit")) as client:
        assert (await client.ask("DESCRIBE")).status == 200
        path, _, query = client.bare.partition("?")
        setup = await client.ask("SETUP", f"{path}/track1?{query}", {"Transport": "RTP/AVP/TCP;interleaved=0-1"})
        assert setup.status == 453


async def test_unauthorised_refuses_the_right_password_too(town, connect) -> None:
    town.set_fault("locked", FaultKind.UNAUTHORISED)
    async with connect(town.url("locked")) as client:
        challenge = (await client.ask("DESCRIBE")).all("www-authenticate")[0]
        assert (await client.ask("DESCRIBE", headers=client.proof("DESCRIBE", challenge, "s3cret/ü"))).status == 401
        town.clear("locked")
        assert (await client.ask("DESCRIBE", headers=client.proof("DESCRIBE", challenge, "s3cret/ü"))).status == 200


async def test_freeze_by_url_sends_nothing_more_but_answers(town, connect) -> None:
    async with connect(town.url("cam-1", fault="freeze", after_s=0.3)) as client:
        await client.play()
        with pytest.raises(TimeoutError):
            while True:
                await client.frame(timeout_s=0.6)
        assert (await client.ask("GET_PARAMETER")).status == 200


async def test_freeze_by_call_ends_at_a_keyframe_with_time_gone_on(town, connect) -> None:
    async with connect(town.url("cam-1")) as client:
        await client.play()
        before = (await client.frame())[0]
        town.set_fault("cam-1", FaultKind.FREEZE)
        with pytest.raises(TimeoutError):
            while True:
                before = (await client.frame(timeout_s=0.3))[0]
        town.clear("cam-1")
        after = (await client.frame())[0]
        assert after.data[12] & 0x1F == 7, "it goes on with parameter sets and a keyframe"
        assert after.sequence == (before.sequence + 1) & 0xFFFF or after.sequence - before.sequence & 0xFFFF < 20
        assert 0.25 * 90000 < (after.rtp_time - before.rtp_time) & 0xFFFFFFFF < 4 * 90000


async def test_refuse_by_call_resets_what_plays(town, connect) -> None:
    async with connect(town.url("cam-1")) as client, connect(town.url("locked")) as other:
        await client.play()
        assert (await other.ask("OPTIONS")).status == 200
        town.set_fault("cam-1", FaultKind.REFUSE)
        assert await client.closed(1)
        assert (await other.ask("OPTIONS")).status == 200


async def test_hang_by_call_is_silence_on_both_sides(town, connect) -> None:
    async with connect(town.url("cam-1")) as client:
        await client.play()
        await client.frame()
        town.set_fault("cam-1", FaultKind.HANG)
        with pytest.raises(TimeoutError):
            while True:
                await client.packet(timeout_s=0.4)
        await client.send("GET_PARAMETER")
        with pytest.raises(TimeoutError):
            await client.packet(timeout_s=0.3)
    async with connect(town.url("cam-1")) as client:
        assert await _silent(client)


async def test_an_own_port_refuses_goes_silent_and_comes_back(town, connect) -> None:
    async with connect(town.url("own")) as client:
        await client.play()
        town.set_fault("own", FaultKind.REFUSE)
        assert await client.closed(1)
    port = int(town.url("own").split(":")[2].split("/")[0])
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    town.set_fault("own", FaultKind.SILENT)
    await asyncio.sleep(0.1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 0.5)
    town.clear("own")
    await asyncio.sleep(0.05)
    async with connect(town.url("own")) as client:
        assert (await client.play()).status == 200


async def test_an_own_port_serves_its_camera_only(town, connect) -> None:
    async with connect(town.url("own").replace("/own/", "/cam-1/")) as client:
        assert (await client.ask("DESCRIBE")).status == 404


async def test_cut_ends_in_the_middle_of_a_packet(town, connect) -> None:
    async with connect(town.url("cam-1", fault="cut", after_s=0.1)) as client:
        await client.play()
        with pytest.raises(asyncio.IncompleteReadError) as torn:
            while True:
                await client.frame()
        assert torn.value.expected is not None and len(torn.value.partial) < torn.value.expected


async def test_jump_moves_rtp_time_once(town, connect) -> None:
    async with connect(town.url("cam-1", fault="jump", by_s=-30, after_s=0.2)) as client:
        await client.play()
        times = [(await client.frame())[0].rtp_time for _ in range(20)]
    steps = [after - before & 0xFFFFFFFF for before, after in itertools.pairwise(times)]
    assert sorted(set(steps)) == [3600, 3600 - 30 * 90000 & 0xFFFFFFFF] and steps.count(3600) == 18


async def test_resolution_changes_within_the_session(town, connect) -> None:
    async with connect(town.url("cam-1", fault="resolution", after_s=0.2, for_s=0.3)) as client:
        await client.play()
        sizes, times = [], []
        while len(set(sizes)) < 2 or sizes[-1] != sizes[0]:
            frame = await client.frame()
            times.append(frame[0].rtp_time)
            sizes += [packet.data[12:] for packet in frame if packet.data[12] & 0x1F == 7]
        assert len(set(sizes)) == 2, "two kinds of SPS, and the first again in the end"
    assert all(0 < after - before & 0xFFFFFFFF < 2 * 90000 for before, after in itertools.pairwise(times))


async def test_frozen_and_black_pictures_keep_coming(town, connect) -> None:
    for fault, most_bytes in (("frozen_picture", 700), ("black_picture", 200)):
        async with connect(town.url("cam-1", fault=fault)) as client:
            await client.play()
            frames = [await client.frame() for _ in range(24)]
            bodies = [sum(len(packet.data) for packet in frame) for frame in frames[1:]]
            assert sorted(bodies)[len(bodies) // 2] < most_bytes, "nothing changes, so there is next to nothing to send"


async def test_garbage_is_no_rtp(town, connect) -> None:
    async with connect(town.url("cam-1", fault="garbage", after_s=0.1)) as client:
        await client.play()
        with pytest.raises((AssertionError, asyncio.IncompleteReadError, TimeoutError)):
            for _ in range(200):
                assert (await client.packet(1)).data[0] == 0x80


async def test_loss_is_counted_exactly(town, connect) -> None:
    async with connect(town.url("cam-1", fault="loss", percent=30)) as client:
        await client.play()
        packets = [await client.rtp() for _ in range(60)]
    gaps = sum((after.sequence - before.sequence & 0xFFFF) - 1 for before, after in itertools.pairwise(packets))
    assert 5 <= gaps <= town.counters("cam-1").packets_lost


async def test_slow_network_delays_and_throttles(town, connect) -> None:
    async with connect(town.url("cam-1", fault="slow", delay_ms=700)) as client:
        await client.play()
        began = time.monotonic()
        await client.frame()
        assert time.monotonic() - began > 0.65
    async with connect(town.url("cam-1", fault="slow", bps=40_000)) as client:
        await client.play()
        await client.rtp()
        began, size = time.monotonic(), 0
        while time.monotonic() - began < 1.5:
            size += len((await client.packet()).data)
        assert size * 8 / 1.5 < 70_000


async def test_a_fault_with_an_end_clears_itself(town, connect) -> None:
    town.set_fault("own", Fault(kind=FaultKind.REFUSE, for_s=0.3))
    await asyncio.sleep(0.05)
    url = town.url("own")
    with pytest.raises(ConnectionRefusedError):
        async with connect(url):
            pass
    async with asyncio.timeout(3):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                async with connect(url) as client:
                    assert (await client.ask("OPTIONS")).status == 200
                    break
            await asyncio.sleep(0.05)


async def test_control_calls(clips: ClipLibrary, connect) -> None:
    cameras = [SimCamera("cam-1", scene="drawn"), SimCamera("cam-2", scene="quiet")]
    async with (
        SimulatedTown(cameras, clips=clips, control_port=0) as town,
        httpx.AsyncClient(base_url=town.control_url) as http,
    ):
        assert [camera["id"] for camera in (await http.get("/cameras")).json()] == ["cam-1", "cam-2"]
        answer = await http.put("/cameras/cam-1/fault", json={"kind": "not_found", "stream": "main"})
        assert answer.json()["fault"]["kind"] == "not_found"
        async with connect(town.url("cam-1")) as main, connect(town.url("cam-1", "sub")) as sub:
            assert (await main.ask("DESCRIBE")).status == 404
            assert (await sub.ask("DESCRIBE")).status == 200
        assert (await http.delete("/cameras/cam-1/fault")).json()["fault"] is None
        assert (await http.put("/cameras/cam-1/fault", json={"kind": "flood"})).status_code == 422
        missing = await http.get("/cameras/nobody")
        assert missing.status_code == 404 and "nobody" in missing.json()["en"]
        assert (await http.get("/cameras", headers={"Host": "evil.example"})).status_code == 400


async def test_a_fault_of_one_camera_takes_nothing_from_the_others(clips: ClipLibrary, connect) -> None:
    cameras = [SimCamera(f"c{number}", scene="drawn") for number in range(4)]
    async with SimulatedTown(cameras, clips=clips) as town, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(town.url(camera.id))) for camera in cameras]
        for client in clients:
            await client.play()
        for kind, camera in zip((FaultKind.CUT, FaultKind.GARBAGE, FaultKind.REFUSE), cameras, strict=False):
            town.set_fault(camera.id, kind)
        numbers = [next(p.number for p in await clients[3].frame() if p.number is not None) for _ in range(40)]
        assert numbers == list(range(numbers[0], numbers[0] + 40))
