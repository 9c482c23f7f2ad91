"""`gridwatch up`: the town on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from command.cli import lang, say
from command.running_town import RunningTown
from command.settings import Settings
from ingest.logs import set_up_logs

Ready = Callable[[RunningTown, asyncio.Event], Awaitable[None]]


async def run_town(town: RunningTown, when_ready: Ready) -> None:
    """Start the town, call `when_ready`, wait for SIGINT or SIGTERM, end everything.

    A second Ctrl-C during the end changes nothing: ending is bounded and data is safe at any point.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    starting = asyncio.create_task(town.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if starting.done():
            starting.result()
            await when_ready(town, stop)
            await stop.wait()
        else:
            starting.cancel()
            await asyncio.wait({starting})
    finally:
        stopping.cancel()
        await town.stop()


async def tell_ready(town: RunningTown, _: asyncio.Event) -> None:
    """Print the address to open."""
    click.echo(say("up.ready", url=town.url))


@click.command("up", help=say("up.help"))
@click.option("--streams", type=click.Path(path_type=Path), help=say("up.streams.help"))
@click.option("--grids", type=click.Path(path_type=Path), help=say("up.grids.help"))
@click.option("--host", help=say("up.host.help"))
@click.option("--port", type=click.IntRange(1, 65535), help=say("up.port.help"))
@click.option("--home", type=click.Path(path_type=Path), help=say("up.home.help"))
def command(streams: Path | None, grids: Path | None, host: str | None, port: int | None, home: Path | None) -> None:
    """Run the town until a signal."""
    set_up_logs("up")
    settings = Settings.from_environment(
        streams=streams and streams.absolute(),
        grids=grids and grids.absolute(),
        host=host,
        port=port,
        home=home and home.absolute(),
        lang=lang(),
    )
    asyncio.run(run_town(RunningTown(settings), tell_ready))
