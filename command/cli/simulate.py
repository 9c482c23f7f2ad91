"""`gridwatch simulate`: a town of simulated RTSP cameras on 127.0.0.1, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click
import uvloop

from command.cli import say
from ingest.camera import Camera
from ingest.logs import set_up_logs
from ingest.simulate import ClipLibrary, SimCamera, SimulatedTown, ensure_clips, phase_for, scene_for
from ingest.simulate.clips import Progress
from ingest.simulate.recipe import SETS
from ingest.streams import load_streams

DEFAULT_CAMERAS = 16
DEFAULT_PORT = 8554
DEFAULT_CONTROL_PORT = 8555
_PROFILES = {"test": ("tiny", "tiny-sub"), "demo": ("main", "sub"), "bench": ("main", "sub")}


def _cameras(streams: Path | None, count: int | None, clip_set: str) -> tuple[list[SimCamera], int]:
    """The cameras to serve, and the port that their URLs name (or the default)."""
    main, sub = _PROFILES[clip_set]
    if streams is None:
        wanted = count or DEFAULT_CAMERAS
        ids = [f"cam-{number:03d}" for number in range(1, wanted + 1)]
        plain = [SimCamera(name, scene_for(index), main, sub, phase_for(index)) for index, name in enumerate(ids)]
        return plain, DEFAULT_PORT
    known = load_streams(streams).cameras[:count]
    cameras = [_from_file(camera, index, main, sub) for index, camera in enumerate(known)]
    port = urlsplit(known[0].main.bare).port if known else None
    return cameras, port or DEFAULT_PORT


def _from_file(camera: Camera, index: int, main: str, sub: str) -> SimCamera:
    user, password = camera.main.credentials or (None, "")
    return SimCamera(
        camera.id,
        scene_for(index),
        main,
        sub if camera.sub is not None else None,
        phase_for(index),
        user=user,
        password=password,
    )


@contextlib.contextmanager
def _progress_bar() -> Iterator[Progress]:
    """A bar that appears with the first work: nothing is shown when every clip is in the cache."""
    with contextlib.ExitStack() as stack:
        bar = None
        shown = 0

        def advance(done: float, whole: float) -> None:
            nonlocal bar, shown
            if bar is None:
                bar = stack.enter_context(click.progressbar(length=1000, label=say("simulate.clips"), file=sys.stderr))
            thousandths = int(1000 * done / whole)
            bar.update(thousandths - shown)
            shown = thousandths

        yield advance


async def _serve(cameras: list[SimCamera], port: int, control_port: int, clips: ClipLibrary) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    async with SimulatedTown(cameras, port, clips=clips, control_port=control_port) as town:
        example = f"rtsp://127.0.0.1:{town.port}/{cameras[0].id}/main" if cameras else ""
        click.echo(say("simulate.ready", count=len(cameras), url=example, control=town.control_url))
        await stop.wait()


@click.command("simulate", help=say("simulate.help"))
@click.option("--cameras", type=click.IntRange(1, 4096), help=say("simulate.cameras.help", count=DEFAULT_CAMERAS))
@click.option("--streams", type=click.Path(path_type=Path), help=say("simulate.streams.help"))
@click.option("--port", type=click.IntRange(0, 65535), help=say("simulate.port.help", port=DEFAULT_PORT))
@click.option(
    "--control-port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_CONTROL_PORT,
    help=say("simulate.control_port.help", port=DEFAULT_CONTROL_PORT),
)
@click.option("--clips", "clip_set", type=click.Choice(sorted(SETS)), default="demo", help=say("simulate.clips.help"))
@click.option("--cache", type=click.Path(path_type=Path), help=say("simulate.cache.help"))
@click.option("--prepare", is_flag=True, help=say("simulate.prepare.help"))
def command(
    cameras: int | None,
    streams: Path | None,
    port: int | None,
    control_port: int,
    clip_set: str,
    cache: Path | None,
    prepare: bool,
) -> None:
    """Encode what is missing, then serve until a signal."""
    set_up_logs("simulate")
    served, named_port = _cameras(streams, cameras, clip_set)
    with _progress_bar() as progress:
        clips = ensure_clips(SETS[clip_set], cache, progress)
    if prepare:
        click.echo(say("simulate.prepared", folder=clips.folder))
        return
    uvloop.run(_serve(served, named_port if port is None else port, control_port, clips))
