"""Our client against servers that are not ours: VLC and gst-rtsp-server, H.264 and H.265, with sound, TCP and UDP.

VLC serves UDP only and answers TCP with 461, which is what the automatic choice is made for.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ingest.access_unit import AccessUnit
from ingest.clock import SystemClock
from ingest.connect_gate import ConnectGate
from ingest.health import CameraState
from ingest.link import CameraLink
from ingest.rtsp import RtspSession, SessionError
from ingest.secret import SecretUrl
from tests.ingest.interop.peers import GST_PYTHON, film, free_port, program, running
from tests.ingest.rtsp.encoded import decode

FRAMES = 40


@pytest.fixture(scope="module")
def films() -> Iterator[Path]:
    """A folder that another account may read: VLC does not run as root."""
    folder = Path(tempfile.mkdtemp(prefix="gw-interop-"))
    folder.chmod(0o755)
    film(folder / "h264.mp4")
    film(folder / "h265.mp4", "libx265")
    film(folder / "sound.mp4", audio=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def pulled(url: str, transport: str) -> AsyncIterator[tuple[CameraLink, list[AccessUnit]]]:
    link = CameraLink(
        "peer",
        "main",
        SecretUrl(url),
        clock=SystemClock(),
        gate=ConnectGate(),
        transport=transport,  # type: ignore[arg-type]
    )
    reader = link.fanout.join("test", 1000)
    link.start()
    try:
        units: list[AccessUnit] = []
        async with asyncio.timeout(20):
            while len(units) < FRAMES:
                units += await reader.get_many()
        yield link, units
    finally:
        await link.stop()


def whole(units: list[AccessUnit], codec: str) -> None:
    """Every frame decodes, none is missing, media time runs as the film's."""
    assert units[0].is_keyframe and units[0].format.codec == codec
    assert len(decode(units)) == len(units)
    assert all(unit.lost_packets == 0 for unit in units)
    steps = {b.pts_90k - a.pts_90k for a, b in itertools.pairwise(units)}
    assert all(abs(step - 3600) <= 90 for step in steps), steps
    assert [unit.discontinuity for unit in units] == [True] + [False] * (len(units) - 1)


async def test_vlc_serves_over_udp(films: Path) -> None:
    vlc = program("cvlc", "vlc-bin vlc-plugin-base")

    async def one(name: str, codec: str) -> None:
        port = free_port()
        sout = f"#rtp{{sdp=rtsp://127.0.0.1:{port}/live}}"
        command = (vlc, "-I", "dummy", str(films / f"{name}.mp4"), "--sout", sout, "--sout-all", "--loop")
        async with running(*command, folder=films, port=port):
            async with pulled(f"rtsp://127.0.0.1:{port}/live", "auto") as (link, units):
                whole(units, codec)
                assert link.health().state is CameraState.LIVE and link.health().lost_packets == 0
            session = RtspSession(SecretUrl(f"rtsp://127.0.0.1:{port}/live"), clock=SystemClock(), on_unit=units.append)
            with pytest.raises(SessionError) as refused:
                await session.open()
            assert refused.value.code == "camera.transport_refused" and refused.value.facts["status"] == 461

    await asyncio.gather(one("h264", "h264"), one("h265", "hevc"), one("sound", "h264"))


async def test_gst_rtsp_server(films: Path) -> None:
    """Each film over TCP and over UDP, the locked one with Digest; one server for all."""
    port, locked = free_port(), free_port()
    server = str(Path(__file__).with_name("gst_server.py"))
    copy = films / "gst_server.py"
    shutil.copy(server, copy)

    async def one(path: str, codec: str, transport: str, where: str = f"127.0.0.1:{port}") -> None:
        async with pulled(f"rtsp://{where}/{path}", transport) as (link, units):
            whole(units, codec)
            assert link.health().lost_packets == 0

    async with running(GST_PYTHON, str(copy), str(films), str(locked), str(port), folder=films, port=port):
        await asyncio.gather(
            one("h264", "h264", "tcp"),
            one("h264", "h264", "udp"),
            one("h265", "hevc", "tcp"),
            one("h265", "hevc", "udp"),
            one("sound", "h264", "tcp"),
            one("sound", "h264", "udp"),
            one("locked", "h264", "auto", f"operator:s3cret@127.0.0.1:{locked}"),
        )
        wrong = RtspSession(
            SecretUrl(f"rtsp://operator:wrong@127.0.0.1:{locked}/locked"), clock=SystemClock(), on_unit=print
        )
        with pytest.raises(SessionError) as refused:
            await wrong.open()
        assert refused.value.state is CameraState.UNAUTHORISED
