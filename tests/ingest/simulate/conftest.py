"""The tests' clips, a town of small cameras, and an RTSP client that shows every byte it got."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import pytest

from ingest.simulate import ClipLibrary, SimCamera, SimulatedTown, ensure_clips, read_frame_number


@pytest.fixture(scope="session")
def clips() -> ClipLibrary:
    return ensure_clips()


@dataclass
class Packet:
    channel: int
    data: bytes

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.data[2:4])

    @property
    def rtp_time(self) -> int:
        return int.from_bytes(self.data[4:8])

    @property
    def marker(self) -> bool:
        return bool(self.data[1] & 0x80)

    @property
    def number(self) -> int | None:
        return read_frame_number(self.data[12:])


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: str

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        return self.all(name)[0]


@dataclass
class RawClient:
    """RTSP by hand over one TCP connection."""

    url: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    cseq: int = 0
    session: str = ""
    packets: list[Packet] = field(default_factory=list)

    async def send(self, method: str, url: str | None = None, headers: dict[str, str] | None = None) -> None:
        self.cseq += 1
        lines = [f"{method} {url or self.bare} RTSP/1.0", f"CSeq: {self.cseq}"]
        if self.session:
            lines.append(f"Session: {self.session}")
        lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def ask(self, method: str, url: str | None = None, headers: dict[str, str] | None = None) -> Answer:
        """Send a request and wait for its answer; packets that come between are kept."""
        await self.send(method, url, headers)
        return await asyncio.wait_for(self._answer(), 5)

    async def _answer(self) -> Answer:
        while True:
            first = await self.reader.readexactly(1)
            if first == b"$":
                self.packets.append(await self._packet())
                continue
            head = (first + await self.reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.strip().split("\r\n")
            headers = [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines[1:])]
            length = int(dict(headers).get("content-length", 0))
            body = (await self.reader.readexactly(length)).decode()
            assert dict(headers)["cseq"] == str(self.cseq)
            return Answer(int(lines[0].split()[1]), headers, body)

    async def _packet(self) -> Packet:
        channel, length = struct.unpack(">BH", await self.reader.readexactly(3))
        return Packet(channel, await self.reader.readexactly(length))

    async def packet(self, timeout_s: float = 5) -> Packet:
        """The next interleaved packet, RTCP included."""

        async def following() -> Packet:
            assert await self.reader.readexactly(1) == b"$", "no packet begins here"
            return await self._packet()

        return await asyncio.wait_for(following(), timeout_s)

    async def rtp(self, timeout_s: float = 5) -> Packet:
        """The next RTP packet."""
        while True:
            packet = await self.packet(timeout_s)
            if packet.channel % 2 == 0:
                return packet

    async def frame(self, timeout_s: float = 5) -> list[Packet]:
        """Packets up to the next marker."""
        found = [await self.rtp(timeout_s)]
        while not found[-1].marker:
            found.append(await self.rtp(timeout_s))
        return found

    @property
    def bare(self) -> str:
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    async def play(self, transport: str = "RTP/AVP/TCP;unicast;interleaved=0-1") -> Answer:
        """DESCRIBE, SETUP and PLAY."""
        assert (await self.ask("DESCRIBE")).status == 200
        path, _, query = self.bare.partition("?")
        track = f"{path}/track1" + (f"?{query}" if query else "")
        answer = await self.ask("SETUP", track, {"Transport": transport})
        assert answer.status == 200, answer
        self.session = answer.one("session").split(";")[0]
        answer = await self.ask("PLAY", path)
        assert answer.status == 200
        return answer

    async def closed(self, timeout_s: float = 5) -> bool:
        """Read on until the connection ends; True when it does."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(timeout_s):
                while await self.reader.read(65536):
                    pass
        return True

    def proof(self, method: str, challenge: str, password: str, uri: str | None = None) -> dict[str, str]:
        """An Authorization header that answers a Digest challenge."""
        given = dict(re.findall(r'(\w+)="?([^",]+)"?', challenge.partition(" ")[2]))
        make = hashlib.sha256 if given["algorithm"] == "SHA-256" else hashlib.md5
        user, where = unquote(urlsplit(self.url).username or "user"), uri or self.bare

        def digest(text: str) -> str:
            return make(text.encode()).hexdigest()

        left, right = digest(f"{user}:{given['realm']}:{password}"), digest(f"{method}:{where}")
        answer = digest(f"{left}:{given['nonce']}:00000001:0a4f113b:auth:{right}")
        return {
            "Authorization": f'Digest username="{user}", realm="{given["realm"]}", nonce="{given["nonce"]}", '
            f'uri="{where}", response="{answer}", algorithm={given["algorithm"]}, qop=auth, nc=00000001, '
            'cnonce="0a4f113b"'
        }


Connect = Callable[[str], AbstractAsyncContextManager[RawClient]]


@pytest.fixture
def connect() -> Connect:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[RawClient]:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            yield RawClient(url, reader, writer)
        finally:
            writer.transport.abort()

    return opened


@pytest.fixture
async def town(clips: ClipLibrary) -> AsyncIterator[SimulatedTown]:
    """Three cameras: open, with a password, and on a port of its own."""
    cameras = [
        SimCamera("cam-1", scene="drawn"),
        SimCamera("locked", scene="quiet", user="operator", password="s3cret/ü"),
        SimCamera("own", scene="drawn", own_port=True),
    ]
    async with SimulatedTown(cameras, clips=clips) as running:
        yield running
