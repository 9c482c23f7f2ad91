"""Programs that are not ours, started for a test and ended behind it, and the files that they serve."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GST_PYTHON = "/usr/bin/python3"  # the distribution's, whose GObject bindings are packages
FPS = 25


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    assert found, f"this test needs {name}: sudo apt-get install --no-install-recommends {package}"
    return found


@asynccontextmanager
async def running(*command: str, folder: Path, port: int | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program, as nobody when the tests are root's (VLC refuses root); waits until it listens on `port`."""
    who: dict[str, object] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(folder), "LC_ALL": "C.UTF-8"}
    log = folder / f"{Path(command[-1] if command[0] == GST_PYTHON else command[0]).name}.{port}.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=out, stderr=out, stdin=asyncio.subprocess.DEVNULL, env=environment, cwd=folder, **who
        )
    try:
        if port is not None:
            await _listening(process, port, log)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 3)
            except TimeoutError:
                process.kill()
        await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    async with asyncio.timeout(20):
        while True:
            assert process.returncode is None, f"{log} tells why"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


def film(path: Path, codec: str = "libx264", *, audio: bool = False, seconds: int = 10) -> Path:
    """A moving picture, 320x180 at 25 fps, GOP 1 s, without B-frames; with a silent AAC track if asked for."""
    options = {"preset": "ultrafast", "g": "25", "bf": "0"}
    if codec == "libx265":
        options = {
            "preset": "ultrafast",
            "x265-params": "keyint=25:min-keyint=25:bframes=0:scenecut=0:pools=1:frame-threads=1:log-level=none",
        }
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=FPS, options=options)
        video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
        video.thread_count = 1
        if codec == "libx265":
            video.codec_tag = "hvc1"
        sound = out.add_stream("aac", rate=16_000) if audio else None
        if sound is not None:
            sound.layout = "mono"
        noise = np.random.default_rng(5).integers(0, 255, (270, 640), np.uint8)
        for number in range(seconds * FPS):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, number * 8, 1)[:, :320].copy(), "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if sound is not None:
            for number in range(seconds * 16_000 // 1024):
                quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                quiet.sample_rate, quiet.pts, quiet.time_base = 16_000, number * 1024, Fraction(1, 16_000)
                out.mux(sound.encode(quiet))
            out.mux(sound.encode(None))
    path.chmod(0o644)
    return path


async def output_of(*command: str, folder: Path, timeout_s: float = 30) -> str:
    """What a program prints; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (out + err).decode(errors="replace")[-2000:]
    sys.stderr.write(err.decode(errors="replace"))
    return out.decode()
