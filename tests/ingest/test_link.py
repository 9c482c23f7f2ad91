"""Camera links against the simulated town and bad networks: states, plugs pulled both ways, gates, back-off."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from ingest import link as link_module
from ingest.clock import ManualClock, SystemClock
from ingest.connect_gate import ConnectGate
from ingest.health import CameraState, StreamHealth
from ingest.link import CameraLink
from ingest.rtsp import SessionError
from ingest.secret import SecretUrl
from ingest.simulate import Fault, FaultKind, SimCamera, SimulatedTown, Variant, read_frame_mark
from tests.ingest.rtsp.encoded import decode
from tests.ingest.rtsp.scripted_camera import Asked, Dialogue, ScriptedCamera


async def until(true: Callable[[], bool], timeout_s: float = 15) -> float:
    """Wait for a condition; how long it took, in seconds."""
    start = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return time.monotonic() - start


def make_link(url: str, camera: str = "c-1", **how: object) -> CameraLink:
    how.setdefault("gate", ConnectGate())
    return CameraLink(camera, "main", SecretUrl(url), clock=SystemClock(), rng=random.Random(1), **how)  # type: ignore[arg-type]


@asynccontextmanager
async def started(*links: CameraLink) -> AsyncIterator[None]:
    for link in links:
        link.start()
    try:
        yield
    finally:
        await asyncio.gather(*(link.stop() for link in links))


async def test_a_stream_in_all_its_forms() -> None:
    """H.264 and H.265, TCP, UDP and libav, B-frames, sets in SDP only, wraps: every frame, in order, decodable."""
    cameras = [
        SimCamera("plain"),
        SimCamera("hevc", variant=Variant(codec="hevc")),
        SimCamera("b", variant=Variant(b_frames=True)),
        SimCamera("sdp", variant=Variant(parameter_sets="sdp")),
        SimCamera("wrap", variant=Variant(near_wrap=True)),
        SimCamera("login", user="admin", password="p@ss:w/rd"),
    ]
    async with SimulatedTown(cameras=cameras) as town:
        links = [make_link(town.url(camera.id), camera.id) for camera in cameras]
        links += [make_link(town.url("plain"), "udp", transport="udp")]
        links += [make_link(town.url("plain"), "libav", transport="libav")]
        readers = [link.fanout.join("test", 2000) for link in links]
        async with started(*links):
            await until(lambda: all(reader.queued_units >= 60 for reader in readers), 30)
            for link, reader in zip(links, readers, strict=True):
                units = await reader.get_many()
                assert len(decode(units)) >= len(units) - 3, link.camera_id
                marks = [read_frame_mark(unit.data) for unit in units]
                numbers = [mark.number for mark in marks if mark is not None]
                shown = sorted(numbers)
                assert len(numbers) == len(units) and shown == list(range(shown[0], shown[0] + len(shown))), (
                    link.camera_id
                )
                assert all(a.dts_90k < b.dts_90k for a, b in itertools.pairwise(units)), link.camera_id
                assert all(unit.dts_90k <= unit.pts_90k for unit in units), link.camera_id
                assert sum(unit.discontinuity for unit in units) == 1, link.camera_id
                assert abs(units[-1].wall_s - time.time()) < 3
                health = link.health()
                assert (health.state, health.lost_packets, health.reconnects) == (CameraState.LIVE, 0, 0)
                assert health.fps == pytest.approx(25, abs=5), link.camera_id
                assert health.gop_s == pytest.approx(1.0, abs=0.05) and (health.width, health.height) == (320, 180)
            wrapped = await asyncio.wait_for(_past_wrap(links[4]), 15)
            assert wrapped
        assert all(link.state is CameraState.STOPPED for link in links)
        await until(lambda: all(town.playing(camera.id) == 0 for camera in cameras), 10)


async def _past_wrap(link: CameraLink) -> bool:
    reader = link.fanout.join("wrap", 5000)
    last = 0
    async for unit in reader:
        assert unit.dts_90k > last and unit.lost_packets == 0
        last = unit.dts_90k
        if unit.pts_90k > 2**32 + 9000:
            return True
    return False


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (FaultKind.UNAUTHORISED, CameraState.UNAUTHORISED),
        (FaultKind.NOT_FOUND, CameraState.NOT_FOUND),
        (FaultKind.SESSION_LIMIT, CameraState.SESSION_LIMIT),
        (FaultKind.REFUSE, CameraState.REFUSED),
        (FaultKind.HANG, CameraState.STALLED),
    ],
)
async def test_what_is_wrong_at_connect_is_shown(kind: FaultKind, state: CameraState) -> None:
    camera = SimCamera("c-1", user="u", password="p", fault=Fault(kind=kind))
    async with SimulatedTown(cameras=[camera]) as town:
        told: list[StreamHealth] = []
        link = make_link(town.url("c-1"), on_state=told.append)
        async with started(link):
            await until(lambda: link.state is state)
            health = link.health()
            assert health.reason_code is not None and health.reason_code.startswith("camera.")
            assert "p@" not in str(health.reason_facts)
        assert [one.state for one in told][:2] == [CameraState.CONNECTING, state]


async def test_a_plug_pulled_and_put_back() -> None:
    """Refused connections are seen at once; the picture is back within 5 s of the camera's coming back."""
    async with SimulatedTown(cameras=[SimCamera("c-1", own_port=True)]) as town:
        link = make_link(town.url("c-1"))
        async with started(link):
            await until(lambda: link.state is CameraState.LIVE)
            town.set_fault("c-1", FaultKind.REFUSE)
            assert await until(lambda: link.state is CameraState.REFUSED) < 5
            assert link.fanout.last_gop == []
            await asyncio.sleep(1.5)
            reader = link.fanout.join("test")
            frames = link.health().frames
            town.clear("c-1")
            assert await until(lambda: reader.queued_units > 0) < 5
            assert reader.get_nowait().discontinuity  # type: ignore[union-attr]
            health = link.health()
            assert health.reconnects == 1 and health.frames > frames and health.state is CameraState.LIVE


async def test_a_plug_pulled_silently() -> None:
    """Nothing comes and nothing says so: seen 5 s after the last frame; back within 5 s."""
    async with SimulatedTown(cameras=[SimCamera("c-1")]) as town:
        link = make_link(town.url("c-1"))
        async with started(link):
            await until(lambda: link.state is CameraState.LIVE)
            town.set_fault("c-1", FaultKind.FREEZE)
            assert await until(lambda: link.state is CameraState.STALLED) < 5.3
            assert link.health().reason_code == "camera.stalled"
            town.clear("c-1")
            assert await until(lambda: link.state is CameraState.LIVE) < 5


async def test_faults_while_playing_are_survived() -> None:
    kinds = [FaultKind.CUT, FaultKind.GARBAGE, FaultKind.RESOLUTION, FaultKind.JUMP, FaultKind.LOSS]
    cameras = [SimCamera(kind.value) for kind in kinds] + [SimCamera("healthy")]
    async with SimulatedTown(cameras=cameras) as town:
        links = {camera.id: make_link(town.url(camera.id), camera.id) for camera in cameras}
        async with started(*links.values()):
            await until(lambda: all(link.state is CameraState.LIVE for link in links.values()))
            readers = {name: link.fanout.join("test", 5000) for name, link in links.items()}
            for kind in kinds:
                town.set_fault(
                    kind.value, Fault(kind=kind, percent=20, for_s=2 if kind is not FaultKind.RESOLUTION else None)
                )
            await asyncio.sleep(4)
            await until(lambda: all(link.state is CameraState.LIVE for link in links.values()), 15)
            marks = {name: link.health() for name, link in links.items()}
            await until(lambda: all(links[name].health().frames > marks[name].frames + 30 for name in links))
            got = {name: await reader.get_many() for name, reader in readers.items()}
        assert links["cut"].health().reconnects >= 1
        assert links["loss"].health().lost_packets > 0
        assert {unit.format.width for unit in got["resolution"]} != {320}
        assert sum(unit.discontinuity for unit in got["jump"]) >= 1
        for name, units in got.items():
            assert all(a.pts_90k < b.pts_90k or b.discontinuity for a, b in itertools.pairwise(units)), name
        healthy = links["healthy"].health()
        assert (healthy.lost_packets, healthy.reconnects, healthy.dropped_units) == (0, 0, 0)
        numbers = [read_frame_mark(unit.data) for unit in got["healthy"]]
        counted = [mark.number for mark in numbers if mark is not None]
        assert counted == list(range(counted[0], counted[0] + len(counted)))


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port that answers no connection attempt: its backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        yield listener.getsockname()[1]
        for filler in fillers:
            filler.close()


async def test_black_holes_do_not_delay_healthy_cameras() -> None:
    """A hundred addresses that swallow everything, before 28 healthy ones: these are live within 15 s."""
    async with SimulatedTown(cameras=[SimCamera(f"ok-{n}") for n in range(28)]) as town:
        with black_hole() as port:
            gate = ConnectGate()
            dead = [make_link(f"rtsp://127.0.0.1:{port}/x", f"dead-{n}", gate=gate) for n in range(100)]
            healthy = [make_link(town.url(f"ok-{n}"), f"ok-{n}", gate=gate) for n in range(28)]
            async with started(*dead, *healthy):
                took_s = await until(lambda: all(link.state is CameraState.LIVE for link in healthy), 20)
                assert took_s < 15
                await until(lambda: dead[0].state is CameraState.UNREACHABLE)
                # And one that is lost now comes back at once, although a hundred others try all the time.
                town.set_fault("ok-0", FaultKind.CUT)
                await until(lambda: healthy[0].state is not CameraState.LIVE)
                town.clear("ok-0")
                assert await until(lambda: healthy[0].state is CameraState.LIVE) < 5


async def test_auto_goes_to_udp_where_tcp_is_refused() -> None:
    tries: list[str] = []

    def script(dialogue: Dialogue, asked: Asked) -> bool:
        if asked.method != "SETUP":
            return False
        tries.append("tcp" if "TCP" in asked.headers["transport"] else "udp")
        dialogue.answer(asked, "461 Unsupported Transport")
        return True

    async with ScriptedCamera(script).running() as camera:
        link = make_link(camera.url().reveal())
        async with started(link):
            await until(lambda: len(tries) >= 3)
            assert link.state is CameraState.BAD_STREAM
    assert tries[:3] == ["tcp", "udp", "tcp"]


async def test_auto_over_udp_against_the_town() -> None:
    async with SimulatedTown(cameras=[SimCamera("c-1")]) as town:
        link = make_link(town.url("c-1"))
        link._kind = "udp"
        async with started(link):
            await until(lambda: link.fanout.last_keyframe is not None)
            assert link.health().lost_packets == 0


def after(link: CameraLink, code: str) -> float:
    return link._pause_s(SessionError(code, camera="c-1", stream="main"))


def test_back_off_is_capped_and_patient_where_cameras_are_touchy() -> None:
    clock = ManualClock()
    link = CameraLink("c-1", "main", SecretUrl("rtsp://h/"), clock=clock, gate=ConnectGate(), rng=random.Random(1))
    link._lost_since_s = clock.monotonic_s()
    pauses = [after(link, "camera.refused") for _ in range(12)]
    assert pauses[0] < 0.4 and max(pauses) <= 3.0 and pauses[-1] == 3.0
    clock.advance(301)
    assert 3 < after(link, "camera.refused") <= 30
    assert after(link, "camera.unauthorised") == 60
    fresh = CameraLink("c-1", "main", SecretUrl("rtsp://h/"), clock=clock, gate=ConnectGate(), rng=random.Random(1))
    limits = [after(fresh, "camera.session_limit") for _ in range(6)]
    assert 7 <= limits[0] <= 13 and limits[1] > limits[0] and max(limits) <= 60 * 1.3


async def test_a_wrong_password_is_tried_once_a_minute() -> None:
    camera = SimCamera("c-1", user="u", password="right")
    async with SimulatedTown(cameras=[camera]) as town:
        url = SecretUrl(town.url("c-1")).with_credentials("u", "wrong").reveal()
        link = make_link(url)
        async with started(link):
            await until(lambda: link.state is CameraState.UNAUTHORISED)
            await asyncio.sleep(1.5)
            assert link._tries == 1


async def test_no_keyframe_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "FIRST_KEYFRAME_S", 0.5)
    async with SimulatedTown(
        cameras=[SimCamera("c-1", variant=Variant(gop_s=30, start="anywhere"), phase_s=7)]
    ) as town:
        link = make_link(town.url("c-1"))
        async with started(link):
            await until(lambda: link.state is CameraState.BAD_STREAM)
            assert link.health().reason_code == "camera.no_keyframe"
            assert "pictures came" in link.health().reason_facts["why"]
