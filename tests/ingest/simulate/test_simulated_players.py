"""Players that are not ours: PyAV and ffprobe read the simulated cameras over TCP and UDP."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil

import av
import pytest

from ingest.simulate import read_frame_number

_FAST = {"analyzeduration": "100000", "probesize": "20000", "fpsprobesize": "0"}


def _read(url: str, transport: str, frames: int) -> tuple[str, list[int | None], int, list[int]]:
    """Codec, frame numbers, decoded pictures and time steps of the first frames."""
    with av.open(url, options={"rtsp_transport": transport, **_FAST}, timeout=(10, 10)) as container:
        stream = container.streams.video[0]
        packets = list(itertools.islice((p for p in container.demux(stream) if p.size), frames))
        pictures = sum(len(packet.decode()) for packet in packets)
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        steps = [after - before for before, after in itertools.pairwise(times)]
        return stream.codec_context.name, [read_frame_number(bytes(packet)) for packet in packets], pictures, steps


@pytest.mark.parametrize(
    ("stream", "query", "transport", "codec"),
    [
        ("main", {}, "tcp", "h264"),
        ("sub", {}, "udp", "h264"),
        ("main", {"codec": "h265"}, "tcp", "hevc"),
        ("main", {"codec": "h265"}, "udp", "hevc"),
        ("main", {"b_frames": True}, "tcp", "h264"),
        ("main", {"rate": "night"}, "tcp", "h264"),
        ("main", {"gop_s": 30, "parameter_sets": "sdp"}, "tcp", "h264"),
    ],
)
async def test_pyav_plays(town, stream, query, transport, codec) -> None:
    url = town.url("cam-1", stream, **query)
    name, numbers, pictures, steps = await asyncio.to_thread(_read, url, transport, 30)
    assert name == codec
    assert numbers == list(range(numbers[0], numbers[0] + 30))
    assert pictures >= 27  # what a decoder may hold back for reordering
    # the last frames of a reordered stream may lack those that are shown before them
    assert set(steps[:-3]) <= {3600, 7500}


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_ffprobe_decodes_with_a_password(town, transport: str) -> None:
    assert shutil.which("ffprobe"), "this test needs ffprobe: sudo apt-get install ffmpeg"
    probe = await asyncio.create_subprocess_exec(
        *(
            "ffprobe",
            "-v",
            "error",
            "-rtsp_transport",
            transport,
            "-analyzeduration",
            "500000",
            "-read_intervals",
            "%+1",
        ),
        *("-show_entries", "stream=codec_name,width,height", "-count_frames", "-of", "json", town.url("locked")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(probe.communicate(), 30)
    assert probe.returncode == 0 and not err, err.decode()
    (stream,) = json.loads(out)["streams"]
    assert (stream["codec_name"], stream["width"], stream["height"]) == ("h264", 320, 180)
