"""A camera made of a drawn clip (frame number as black and white bars, one known colour) and viewers of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from fractions import Fraction

import aioice
import aiortc
import av
import httpx
import numpy as np
import pytest

from command.wall.live_source import OpenUnits
from command.wall.media import create_media_app
from command.wall.negotiate import _gather_on
from command.wall.whep_session import WhepLimits
from ingest.access_unit import AccessUnit, StreamFormat
from ingest.errors import GridwatchError

FPS = 25
BITS = 8
COLOUR_RGB = (200, 40, 60)


@dataclass(frozen=True)
class Clip:
    """Encoded frames of one looped clip; frame n shows n."""

    units: tuple[AccessUnit, ...]

    def unit(self, number: int) -> AccessUnit:
        """Access unit `number` of the endless loop, received now."""
        unit = self.units[number % len(self.units)]
        pts = number * 90_000 // FPS
        return replace(unit, pts_90k=pts, dts_90k=pts, received_s=time.monotonic(), wall_s=time.time())


def draw(number: int, width: int, height: int) -> np.ndarray:
    """Upper half: one colour. Lower half: BITS bars, most significant left, white is 1."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = COLOUR_RGB
    for bit in range(BITS):
        left, right = width * bit // BITS, width * (bit + 1) // BITS
        picture[height // 2 :, left:right] = 235 if number >> (BITS - 1 - bit) & 1 else 16
    return picture


def shown_number(luma: np.ndarray) -> int:
    """The frame number that a decoded luma plane shows."""
    height, width = luma.shape
    row = luma[height * 3 // 4]
    return int("".join("1" if row[width * (2 * bit + 1) // (2 * BITS)] > 120 else "0" for bit in range(BITS)), 2)


def nal_offsets(data: bytes) -> tuple[int, ...]:
    return tuple(match.start() for match in re.finditer(b"\x00\x00\x00\x01", data))


def encode_clip(
    frames: int = 100,
    gop: int = 50,
    width: int = 640,
    height: int = 360,
    profile: str = "main",
    noise: int = 0,
    bitrate: int = 0,
    draw_picture: Callable[[int, int, int], np.ndarray] = draw,
) -> Clip:
    """Encode with libx264, no B-frames, parameter sets in front of every keyframe."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(FPS), Fraction(1, FPS)
    encoder.gop_size, encoder.max_b_frames = gop, 0
    encoder.options = {
        "preset": "veryfast",
        "profile": profile,
        "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0",
    }
    if bitrate:
        encoder.bit_rate = bitrate
    rng = np.random.default_rng(1)
    packets: list[bytes] = []
    for number in range(frames):
        picture = draw_picture(number, width, height)
        if noise:
            picture = np.clip(picture.astype(int) + rng.integers(-noise, noise + 1, picture.shape), 0, 255)
        frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
        frame.pts = number
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    packets += [bytes(packet) for packet in encoder.encode(None)]
    units = []
    stream_format: StreamFormat | None = None
    for packet in packets:
        data = re.sub(b"(?<!\x00)\x00\x00\x01", b"\x00\x00\x00\x01", packet)
        offsets = nal_offsets(data)
        kinds = {data[o + 4] & 0x1F: data[o + 4 :] for o in offsets}
        if 7 in kinds and stream_format is None:
            sps = next(
                data[a + 4 : b]
                for a, b in zip(offsets, (*offsets[1:], len(data)), strict=True)
                if data[a + 4] & 0x1F == 7
            )
            stream_format = StreamFormat("h264", sps, b"", None, width, height, sps[1:4].hex(), 0, FPS)
        assert stream_format is not None
        units.append(AccessUnit(data, offsets, 0, 0, 5 in kinds, 0.0, 0.0, stream_format))
    assert len(units) == frames
    return Clip(tuple(units))


class ClipCamera:
    """Publishes a clip in real time; `open_units` gives the cached GOP first, as the ingest worker does."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.number = -1
        self.open = 0
        self.opened = 0
        self.published_at: dict[int, float] = {}  # number in the clip -> UTC seconds
        self._gop: list[AccessUnit] = []
        self._queues: list[asyncio.Queue[AccessUnit | None]] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def cut(self) -> None:
        """End every open way, as a worker that was killed."""
        for queue in self._queues:
            queue.put_nowait(None)

    def publish(self, unit: AccessUnit) -> None:
        if unit.is_keyframe:
            self._gop = []
        self._gop.append(unit)
        for queue in self._queues:
            queue.put_nowait(unit)

    @property
    def gop(self) -> list[AccessUnit]:
        return self._gop

    async def _run(self) -> None:
        begin = time.monotonic() - 1.2  # so that the first viewer finds a GOP in the cache
        while True:
            due = begin + (self.number + 1) / FPS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.number += 1
            self.published_at[self.number % len(self.clip.units)] = time.time()
            self.publish(replace(self.clip.unit(self.number), received_s=due))

    @contextlib.asynccontextmanager
    async def units(self) -> AsyncIterator[AsyncIterator[AccessUnit]]:
        queue: asyncio.Queue[AccessUnit | None] = asyncio.Queue()
        for unit in self._gop:
            queue.put_nowait(unit)
        self._queues.append(queue)
        self.open += 1
        self.opened += 1

        async def read() -> AsyncIterator[AccessUnit]:
            while (unit := await queue.get()) is not None:
                yield unit

        try:
            yield read()
        finally:
            self.open -= 1
            self._queues.remove(queue)


class Wall:
    """The media app with some cameras, and an HTTP client that reaches it in-process."""

    def __init__(self, cameras: dict[str, ClipCamera], limits: WhepLimits) -> None:
        self.cameras = cameras
        self._way: OpenUnits = self._open_directly
        self.app = create_media_app(self.open_units, limits=limits)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://media")

    def open_through(self, way: OpenUnits) -> None:
        """Take the packets another way than from the cameras directly."""
        self._way = way

    def open_units(self, camera: str, stream: str) -> AbstractAsyncContextManager[AsyncIterator[AccessUnit]]:
        return self._way(camera, stream)

    @contextlib.asynccontextmanager
    async def _open_directly(self, camera: str, stream: str) -> AsyncIterator[AsyncIterator[AccessUnit]]:
        if camera not in self.cameras:
            raise GridwatchError("wall.unknown_stream", camera=camera, stream=stream)
        async with self.cameras[camera].units() as units:
            yield units

    async def stats(self) -> dict[str, object]:
        return (await self.http.get("/stats")).json()


class Viewer:
    """A WHEP player made of aiortc: decodes what it is sent."""

    def __init__(self, wall: Wall, camera: str, stream: str = "main") -> None:
        self.wall = wall
        self.url = f"/whep/{camera}/{stream}"
        self.peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self.session = ""

    async def offer(self, extra_audio: bool = False) -> str:
        if extra_audio:
            self.peer.addTransceiver("audio", direction="recvonly")
        self.video = self.peer.addTransceiver("video", direction="recvonly")
        for transceiver in self.peer.getTransceivers():
            await _gather_on(transceiver.receiver.transport.transport.iceGatherer._connection, ("127.0.0.1",))
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return self.peer.localDescription.sdp

    @property
    def ice_transport(self) -> aiortc.RTCIceTransport:
        return self.video.receiver.transport.transport

    @property
    def ice_connection(self) -> aioice.Connection:
        return self.ice_transport.iceGatherer._connection

    async def watch(self, extra_audio: bool = False) -> httpx.Response:
        await self.offer(extra_audio)
        return await self.watch_offered()

    async def watch_offered(self) -> httpx.Response:
        answer = await self.wall.http.post(
            self.url, content=self.peer.localDescription.sdp, headers={"content-type": "application/sdp"}
        )
        assert answer.status_code == 201, answer.text
        self.session = answer.headers["location"]
        await self.peer.setRemoteDescription(aiortc.RTCSessionDescription(answer.text, "answer"))
        return answer

    async def picture(self, within_s: float = 10) -> av.VideoFrame:
        async with asyncio.timeout(within_s):
            return await self.video.receiver.track.recv()

    async def number(self) -> int:
        return shown_number((await self.picture()).to_ndarray(format="gray"))

    async def close(self) -> None:
        await self.peer.close()


async def wait_until(condition: Callable[[], bool], within_s: float = 10, what: str = "the condition") -> None:
    """Wait for `condition`, looked at every 20 ms."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {within_s} s"
        await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def clip() -> Clip:
    return encode_clip()


@pytest.fixture
async def camera(clip: Clip) -> AsyncIterator[ClipCamera]:
    camera = ClipCamera(clip)
    camera.start()
    yield camera
    await camera.stop()


@pytest.fixture
async def wall(camera: ClipCamera) -> AsyncIterator[Wall]:
    wall = Wall(
        {"c-1": camera},
        WhepLimits(max_sessions=3, first_picture_within_s=1, connect_within_s=1.5, silent_after_s=2.5, linger_s=1),
    )
    async with wall.app.router.lifespan_context(wall.app):
        yield wall
    await wall.http.aclose()


@pytest.fixture
async def viewer_of() -> AsyncIterator[Callable[..., Viewer]]:
    viewers: list[Viewer] = []

    def make(wall: Wall, camera: str, stream: str = "main") -> Viewer:
        viewers.append(Viewer(wall, camera, stream))
        return viewers[-1]

    yield make
    for viewer in viewers:
        await viewer.close()


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    return wait_until


@pytest.fixture
def as_h265() -> Callable[[ClipCamera], Awaitable[None]]:
    """Turn a camera into one whose next keyframe says H.265."""

    async def turn(camera: ClipCamera) -> None:
        await camera.stop()
        hevc = replace(camera.clip.units[0].format, codec="hevc", profile_level_id="")
        keyframe = replace(camera.clip.unit(camera.number + 1), is_keyframe=True, format=hevc)
        camera.publish(keyframe)

    return turn
