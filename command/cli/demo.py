"""`gridwatch demo`: the town with simulated cameras and played patrollers; `--smoke` for one chain and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from command.cli import lang, say
from command.cli.up import run_town
from command.demo_town import DemoTown
from command.running_town import RunningTown
from command.settings import Settings
from command.smoke import smoke
from ingest.logs import set_up_logs
from ingest.simulate.clips import Progress

DEFAULT_CAMERAS = 128
SMOKE_CAMERAS = 16


@contextlib.contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    """A bar on a terminal, a line in a pipe; nothing at all when every clip is in the cache."""
    bar = None
    shown = 0

    def advance(done: float, whole: float) -> None:
        nonlocal bar, shown
        if bar is None:
            bar = click.progressbar(length=1000, label=say("demo.clips"), file=sys.stderr)
            bar.__enter__()
        thousandths = int(1000 * done / whole)
        bar.update(thousandths - shown)
        shown = thousandths

    try:
        yield advance
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)


@click.command("demo", help=say("demo.help"))
@click.option("--cameras", type=click.IntRange(1, 128), help=say("demo.cameras.help", count=DEFAULT_CAMERAS))
@click.option("--smoke", "is_smoke", is_flag=True, help=say("demo.smoke.help"))
@click.option("--no-patrollers", is_flag=True, help=say("demo.patrollers.help"))
@click.option("--port", type=click.IntRange(1, 65535), help=say("up.port.help"))
@click.option("--home", type=click.Path(path_type=Path), help=say("up.home.help"))
def command(cameras: int | None, is_smoke: bool, no_patrollers: bool, port: int | None, home: Path | None) -> None:
    """Set up the clips, then run the town."""
    set_up_logs("demo")
    base = Settings.from_environment(port=port, home=home and home.absolute(), lang=lang())
    count = cameras or (SMOKE_CAMERAS if is_smoke else DEFAULT_CAMERAS)
    demo = DemoTown(base, "smoke" if is_smoke else "demo", count)
    with _progress_bar() as progress:
        demo.ensure_clips(progress)
    set_up_ended_s = time.monotonic()
    if is_smoke:
        demo.clear()
        demo.write_streams()
        town = RunningTown(demo.settings, [demo.simulator()], [demo.patrollers(0.2, 0.2)])
        sys.exit(asyncio.run(smoke(town, set_up_ended_s)))
    demo.write_streams()
    played = demo.patroller_ids()[0]
    after = [] if no_patrollers else [demo.patrollers(6.0, 20.0, leave_out=played)]

    async def tell(town: RunningTown, _: asyncio.Event) -> None:
        click.echo(say("up.ready", url=town.url))
        url = f"mqtt://{town.settings.host}:{town.settings.mqtt_port}"
        click.echo(say("demo.play", home=town.settings.home, program=sys.argv[0], url=url, person=played))

    asyncio.run(run_town(RunningTown(demo.settings, [demo.simulator()], after), tell))
