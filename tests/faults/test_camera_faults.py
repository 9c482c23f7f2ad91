"""Twenty cameras, three of them faulty in every way that a camera is: the other seventeen lose no frame."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from ingest.access_unit import AccessUnit
from ingest.clock import SystemClock
from ingest.connect_gate import ConnectGate
from ingest.fanout import FanoutClosedError, Reader
from ingest.health import CameraState
from ingest.link import CameraLink
from ingest.secret import SecretUrl
from ingest.simulate import Fault, FaultKind, SimCamera, SimulatedTown, read_frame_mark, source_hash


@dataclass
class Pulled:
    """A link and all that its fan-out gave one reader."""

    link: CameraLink
    reader: Reader
    numbers: list[int] = field(default_factory=list)
    units: list[AccessUnit] = field(default_factory=list)
    states: list[CameraState] = field(default_factory=list)

    async def read(self) -> None:
        """Until the link is stopped."""
        while True:
            try:
                came = await self.reader.get_many()
            except FanoutClosedError:
                return
            for unit in came:
                mark = read_frame_mark(unit.data)
                if mark is not None:
                    assert mark.source == source_hash(self.link.camera_id, "main"), "another camera's frame"
                    self.numbers.append(mark.number)
                self.units.append(unit)

    async def until(self, true: Callable[[], bool], what: str, timeout_s: float = 12) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not true():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{self.link.camera_id}: not {what}; {self.link.state} {self.link.reason}") from None

    async def shows(self, state: CameraState, timeout_s: float = 12) -> None:
        await self.until(lambda: state in self.states or self.link.state is state, f"shown as {state}", timeout_s)

    async def plays(self, frames: int = 10) -> None:
        """Live, and that many new frames came."""
        await self.until(lambda: self.link.state is CameraState.LIVE, "live")
        goal = len(self.units) + frames
        await self.until(lambda: len(self.units) >= goal, f"playing {frames} more frames")


@contextlib.asynccontextmanager
async def pulled(town: SimulatedTown, names: list[str]) -> AsyncIterator[dict[str, Pulled]]:
    gate = ConnectGate()
    made: dict[str, Pulled] = {}
    for name in names:
        states: list[CameraState] = []
        link = _link(SecretUrl(town.url(name)), name, gate, states)
        made[name] = Pulled(link, link.fanout.join("proof", 5000), states=states)
    reading = [asyncio.create_task(one.read(), name=f"proof {name}") for name, one in made.items()]
    for one in made.values():
        one.link.start()
    try:
        yield made
        assert [task.exception() for task in reading if task.done() and task.exception()] == []
    finally:
        await asyncio.gather(*(one.link.stop() for one in made.values()))
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


def _link(url: SecretUrl, name: str, gate: ConnectGate, states: list[CameraState]) -> CameraLink:
    return CameraLink(
        name,
        "main",
        url,
        clock=SystemClock(),
        gate=gate,
        rng=random.Random(name),
        on_state=lambda health: states.append(health.state),
    )


async def test_three_of_twenty_cameras_fail_in_every_way_and_seventeen_lose_nothing() -> None:
    healthy = [f"ok-{number:02}" for number in range(17)]
    cameras = [SimCamera(name, scene="drawn") for name in healthy]
    cameras += [SimCamera(name, user="u", password="right", own_port=True) for name in ("bad-1", "bad-2", "bad-3")]
    exercised: set[FaultKind] = set()

    async with SimulatedTown(cameras) as town, pulled(town, [camera.id for camera in cameras]) as links:
        for one in links.values():
            await one.plays(5)

        def begin(one: Pulled, kind: FaultKind, **how: object) -> None:
            one.states.clear()
            exercised.add(kind)
            town.set_fault(one.link.camera_id, Fault(kind=kind, **how))  # type: ignore[arg-type]

        async def at_reconnect(one: Pulled, kind: FaultKind, state: CameraState) -> None:
            """Faults that are met while connecting: the connection is cut first."""
            begin(one, FaultKind.CUT)
            await one.shows(CameraState.CONNECTING)
            begin(one, kind)
            await one.shows(state)

        async def end(one: Pulled) -> None:
            town.clear(one.link.camera_id)
            await one.plays()

        async def refused_cut_and_strange(one: Pulled) -> None:
            begin(one, FaultKind.REFUSE)
            await one.shows(CameraState.REFUSED, 5)
            await end(one)
            begin(one, FaultKind.CUT)
            await one.shows(CameraState.CONNECTING)
            await end(one)
            seen = len(one.units)
            begin(one, FaultKind.JUMP, by_s=-5000)
            await one.until(lambda: any(unit.discontinuity for unit in one.units[seen:]), "a discontinuity")
            await end(one)
            begin(one, FaultKind.RESOLUTION)
            await one.until(lambda: one.units[-1].format.width != 320, "of another size")
            await end(one)
            begin(one, FaultKind.GARBAGE)
            await one.until(lambda: one.link.state is not CameraState.LIVE, "disturbed")
            await end(one)
            await at_reconnect(one, FaultKind.NOT_FOUND, CameraState.NOT_FOUND)
            await end(one)
            # The last: a wrong password is tried once a minute only.
            await one.link.stop()
            one.states.clear()
            wrong = SecretUrl(town.url("bad-1")).with_credentials("u", "wrong")
            stranger = _link(wrong, "bad-1", ConnectGate(), one.states)
            stranger.start()
            await one.shows(CameraState.UNAUTHORISED)
            await stranger.stop()

        async def frozen_lossy_and_slow(one: Pulled) -> None:
            begin(one, FaultKind.FREEZE)
            await one.shows(CameraState.STALLED)
            await end(one)
            begin(one, FaultKind.LOSS, percent=5)
            lost = one.link.health().lost_packets
            await one.until(lambda: one.link.health().lost_packets > lost + 3, "losing packets")
            await end(one)
            begin(one, FaultKind.SLOW, bps=60_000, delay_ms=300)
            seen, sent = len(one.units), town.frames_sent("bad-2")
            await asyncio.sleep(2)
            assert len(one.units) - seen < 45, "a slow network is slow"
            assert town.frames_sent("bad-2") >= sent
            await end(one)
            begin(one, FaultKind.FROZEN_PICTURE)
            await one.plays(15)
            begin(one, FaultKind.BLACK_PICTURE)
            await one.plays(15)
            await end(one)
            await at_reconnect(one, FaultKind.SESSION_LIMIT, CameraState.SESSION_LIMIT)

        async def silent_and_locked(one: Pulled) -> None:
            begin(one, FaultKind.HANG)
            await one.shows(CameraState.STALLED)
            await end(one)
            begin(one, FaultKind.SILENT)
            await one.shows(CameraState.STALLED)
            await one.shows(CameraState.UNREACHABLE)
            await end(one)
            await at_reconnect(one, FaultKind.UNAUTHORISED, CameraState.UNAUTHORISED)

        async with asyncio.timeout(60):
            await asyncio.gather(
                refused_cut_and_strange(links["bad-1"]),
                frozen_lossy_and_slow(links["bad-2"]),
                silent_and_locked(links["bad-3"]),
            )
        assert exercised == set(FaultKind)

        for name in healthy:
            one, health = links[name], links[name].link.health()
            sent = town.frames_sent(name)
            assert one.numbers == list(range(one.numbers[0], one.numbers[0] + len(one.numbers))), name
            assert sent - len(one.numbers) <= 5, f"{name}: {sent} sent, {len(one.numbers)} came"
            assert [unit.discontinuity for unit in one.units] == [True] + [False] * (len(one.units) - 1), name
            assert (health.lost_packets, health.reconnects, one.reader.dropped) == (0, 0, 0), name
        assert all(len(links[name].numbers) > 200 for name in healthy)


@contextlib.contextmanager
def dead_addresses(count: int) -> Iterator[list[int]]:
    """Ports in three ways of being dead, in turn: no answer to a connect, connected and silent, refusing."""
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))
        ports = [int(one.getsockname()[1]) for one in (deaf, mute, closed)]
        yield [ports[number % 3] for number in range(count)]


async def test_a_hundred_dead_addresses_of_all_kinds_do_not_delay_28_healthy_cameras() -> None:
    """All share a gate, the dead ones first; the healthy are live within 15 s and stay whole meanwhile."""
    names = [f"ok-{number:02}" for number in range(28)]
    with dead_addresses(100) as ports:
        async with SimulatedTown([SimCamera(name) for name in names]) as town:
            gate = ConnectGate()
            dead = [
                _link(SecretUrl(f"rtsp://127.0.0.1:{port}/x"), f"dead-{number}", gate, [])
                for number, port in enumerate(ports)
            ]
            links = [_link(SecretUrl(town.url(name)), name, gate, []) for name in names]
            readers = [link.fanout.join("proof", 5000) for link in links]
            for link in (*dead, *links):
                link.start()
            try:
                async with asyncio.timeout(15):
                    while not all(link.state is CameraState.LIVE for link in links):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                    while not all(reader.queued_units > 50 for reader in readers):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                told = {link.state for link in dead}
                assert told >= {CameraState.UNREACHABLE, CameraState.REFUSED}, told
                for link, reader in zip(links, readers, strict=True):
                    marks = [read_frame_mark(unit.data) for unit in await reader.get_many()]
                    numbers = [mark.number for mark in marks if mark is not None]
                    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), link.camera_id
            finally:
                await asyncio.gather(*(link.stop() for link in (*dead, *links)))
