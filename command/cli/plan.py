"""`gridwatch plan`: what a file of cameras needs, and what this machine can hold of it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from command.cli import lang, say
from command.plan import Assumed, Machine, Plan, Record, Verdict, in_bits, make_plan
from command.settings import Settings
from ingest.machine import Limit
from ingest.streams import load_streams

_ASSUMED = Assumed()


@click.command("plan", help=say("cli.plan.help"))
@click.option("--streams", type=click.Path(path_type=Path), help=say("up.streams.help"))
@click.option("--days", type=click.FloatRange(0.1, 36_500), default=_ASSUMED.days, help=say("plan.days.help"))
@click.option("--main-mbps", type=click.FloatRange(0.01, 1000), default=4.0, help=say("plan.main_mbps.help"))
@click.option("--sub-mbps", type=click.FloatRange(0.01, 1000), default=0.5, help=say("plan.sub_mbps.help"))
@click.option(
    "--record", type=click.Choice(("main", "sub", "both", "none")), default="main", help=say("plan.record.help")
)
@click.option("--folder", type=click.Path(path_type=Path), help=say("plan.folder.help"))
@click.option("--json", "as_json", is_flag=True, help=say("cli.check.json"))
@click.pass_context
def command(
    context: click.Context,
    streams: Path | None,
    days: float,
    main_mbps: float,
    sub_mbps: float,
    record: Record,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Exit code 0 when this machine can hold the cameras, 1 when not; a file that cannot be read is an error."""
    settings = Settings.from_environment()
    cameras = load_streams(streams or settings.streams).cameras
    assumed = Assumed(days, main_mbps * 1e6, sub_mbps * 1e6, record, settings.look_every_s)
    plan = make_plan(cameras, Machine.this((folder or settings.home / "recordings").absolute()), assumed)
    if as_json:
        click.echo(json.dumps(plan.as_json(), ensure_ascii=False, indent=2))
    else:
        _print(plan)
    context.exit(0 if plan.ok else 1)


def _print(plan: Plan) -> None:
    need, assumed = plan.demand, plan.assumed
    click.echo(
        say(
            "plan.cameras",
            cameras=need.cameras,
            streams=need.streams,
            main=in_bits(assumed.main_bps),
            sub=in_bits(assumed.sub_bps),
        )
    )
    told: list[Verdict | Limit] = [*plan.verdicts, *plan.limits]
    for one in told:
        mark = {True: ("plan.ok", "green"), False: ("plan.short", "red"), None: ("plan.unknown", "yellow")}[one.ok]
        click.echo(f"{click.style(say(mark[0]), fg=mark[1])} {one.sentence(lang())}")
    for code, one in zip(("plan.holds", "plan.holds_otherwise"), plan.by_scarcity, strict=False):
        resource = say(f"plan.resource.{one.resource}")
        click.echo(say(code, cameras=one.holds_cameras, days=f"{assumed.days:g}", resource=resource))
