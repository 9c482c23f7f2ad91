"""Players that are not ours against simulated cameras: GStreamer's rtspsrc, H.264 and H.265, TCP and UDP, with login.

PyAV and ffprobe are in tests/ingest/simulate. Distributions build VLC without its RTSP client (the live555 plugin).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from ingest.simulate import SimCamera, SimulatedTown, Variant, read_frame_number
from tests.ingest.interop.peers import GST_PYTHON, output_of

FRAMES = 30


async def test_gstreamer_plays_simulated_cameras(tmp_path: Path) -> None:
    cameras = [
        SimCamera("open", scene="drawn"),
        SimCamera("locked", scene="drawn", user="operator", password="s3cret"),
        SimCamera("hevc", scene="drawn", variant=Variant(codec="hevc")),
    ]
    script = str(Path(__file__).with_name("gst_player.py"))

    async def one(url: str, protocol: str, codec: str) -> None:
        printed = await output_of(GST_PYTHON, script, url, protocol, codec, str(FRAMES), folder=tmp_path)
        numbers = [read_frame_number(bytes.fromhex(line)) for line in printed.split()]
        first = numbers[0]
        assert first is not None and numbers == list(range(first, first + FRAMES)), (url, protocol)

    async with SimulatedTown(cameras) as town:
        await asyncio.gather(
            one(town.url("open"), "tcp", "h264"),
            one(town.url("open"), "udp", "h264"),
            one(town.url("locked"), "tcp", "h264"),
            one(town.url("hevc"), "tcp", "h265"),
            one(town.url("hevc"), "udp", "h265"),
        )
