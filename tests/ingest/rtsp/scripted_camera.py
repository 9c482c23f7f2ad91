"""A scripted RTSP server: says byte for byte what the test wants, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ingest.access_unit import AccessUnit
from ingest.clock import SystemClock
from ingest.rtsp import Patience, RtspSession
from ingest.secret import SecretUrl
from tests.ingest.rtsp.encoded import Clip, encode, interleaved, packets

PATIENCE = Patience(connect_s=3, first_answer_s=3, answer_s=3)


@dataclass
class Asked:
    method: str
    uri: str
    headers: dict[str, str]
    connection: int


@dataclass
class Dialogue:
    """One connection's state, for the script."""

    camera: ScriptedCamera
    writer: asyncio.StreamWriter
    number: int
    played: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, asked: Asked, status: str = "200 OK", *lines: str, body: str = "", cseq: bool = True) -> None:
        head = [f"RTSP/1.0 {status}", *([f"CSeq: {asked.headers.get('cseq', '')}"] if cseq else []), *lines]
        if body:
            head.append(f"Content-Length: {len(body)}")
        self.writer.write(("\r\n".join(head) + "\r\n\r\n" + body).encode())

    def play(self, clip: Clip | None = None, channel: int = 0) -> None:
        for packet in packets(clip or self.camera.clip):
            self.writer.write(interleaved(packet, channel))


Script = Callable[[Dialogue, Asked], Awaitable[bool | None] | bool | None]


class ScriptedCamera:
    """`script` handles a request and returns True, or leaves it to the plain answers below."""

    def __init__(self, script: Script | None = None, clip: Clip | None = None) -> None:
        self.script = script
        self.clip = clip or encode()
        self.asked: list[Asked] = []
        self.connections = 0
        self.port = 0
        self.sdp = self.clip.sdp()
        self.writers: list[asyncio.StreamWriter] = []
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def methods(self) -> list[str]:
        return [asked.method for asked in self.asked]

    def url(self, path: str = "live", login: str = "") -> SecretUrl:
        return SecretUrl(f"rtsp://{login}127.0.0.1:{self.port}/{path}")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ScriptedCamera]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self.writers:
                writer.transport.abort()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.writers.append(writer)
        dialogue = Dialogue(self, writer, self.connections)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, uri, _ = head[0].split(" ")
                pairs = (line.partition(":") for line in head[1:] if line)
                asked = Asked(method, uri, {k.lower(): v.strip() for k, _, v in pairs}, dialogue.number)
                self.asked.append(asked)
                handled = self.script(dialogue, asked) if self.script else None
                if isinstance(handled, Awaitable):
                    handled = await handled
                if not handled and not writer.is_closing():
                    self.plain(dialogue, asked)

    def plain(self, dialogue: Dialogue, asked: Asked) -> None:
        match asked.method:
            case "OPTIONS":
                dialogue.answer(asked, "200 OK", "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
            case "DESCRIBE":
                dialogue.answer(asked, "200 OK", f"Content-Base: {asked.uri}/", body=self.sdp)
            case "SETUP":
                granted = asked.headers["transport"]
                dialogue.answer(asked, "200 OK", f"Transport: {granted}", "Session: 77;timeout=60")
            case "PLAY":
                dialogue.answer(asked, "200 OK", "Session: 77")
                dialogue.play()
            case _:
                dialogue.answer(asked)


class Watched:
    """A session to a scripted camera and what it delivered."""

    def __init__(self, url: SecretUrl, transport: str = "tcp", patience: Patience = PATIENCE) -> None:
        self.units: list[AccessUnit] = []
        self._more = asyncio.Event()
        self.session = RtspSession(
            url,
            clock=SystemClock(),
            on_unit=self._take,
            camera="c-1",
            transport=transport,  # type: ignore[arg-type]
            patience=patience,
        )

    def _take(self, unit: AccessUnit) -> None:
        self.units.append(unit)
        self._more.set()

    async def wait_for(self, count: int, timeout_s: float = 10) -> list[AccessUnit]:
        async with asyncio.timeout(timeout_s):
            while len(self.units) < count:
                self._more.clear()
                await self._more.wait()
        return self.units


@asynccontextmanager
async def opened(
    camera: ScriptedCamera, path: str = "live", login: str = "", transport: str = "tcp"
) -> AsyncIterator[Watched]:
    """A session that plays."""
    watched = Watched(camera.url(path, login), transport)
    await watched.session.open()
    try:
        yield watched
    finally:
        await watched.session.close()
