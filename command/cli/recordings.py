"""`gridwatch recordings check`: whether recordings and index agree, and making them agree."""

from __future__ import annotations

from pathlib import Path

import click
import psycopg

from command.cli import say
from command.settings import Settings
from command.store.embedded import running_conninfo
from command.store.segments import SegmentTable
from ingest.errors import GridwatchError
from ingest.recording.check import Checker
from ingest.recording_settings import RecordingFolder
from ingest.streams import load_streams


@click.group("recordings", help=say("cli.recordings.help"))
def command() -> None:
    """The group itself does nothing."""


@command.command("check", help=say("cli.recordings.check.help"))
@click.option("--repair", is_flag=True, help=say("cli.recordings.repair"))
@click.option("--rate", "rate_mb_s", type=click.FloatRange(min=0), default=50.0, help=say("cli.recordings.rate"))
@click.option("--sizes", is_flag=True, help=say("cli.recordings.sizes"))
@click.option("--again", is_flag=True, help=say("cli.recordings.again"))
@click.pass_context
def check(context: click.Context, repair: bool, rate_mb_s: float, sizes: bool, again: bool) -> None:
    """Exit code 0 when everything agrees or is repaired, 1 otherwise."""
    settings = Settings.from_environment()
    conninfo = settings.database_url or running_conninfo(settings.home)
    if conninfo is None:
        raise GridwatchError("recordings.no_database")
    streams = load_streams(settings.streams)
    folders = [settings.home / f.path for f in streams.recording.folders or [RecordingFolder(path="recordings")]]
    try:
        conn = psycopg.connect(conninfo, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise GridwatchError("store.unreachable_database", reason=str(error).strip()) from error
    with conn:
        checker = Checker(
            SegmentTable(conn),
            settings.home / "recordings-check.json",
            streams.zone_info,
            repair=repair,
            read_all=not sizes,
            again=again,
            rate_bytes_s=rate_mb_s * 1e6 or None,
        )
        report = checker.run([Path(folder) for folder in folders])
    for finding, path in report.findings:
        click.echo(say(f"recording.{finding}", path=path))
    click.echo(
        say(
            "recordings.result",
            days=report.days,
            passed_over=report.passed_over,
            segments=report.segments,
            gigabytes=f"{report.bytes_read / 1e9:.2f}",
            findings=len(report.findings),
            repaired=report.repaired,
        )
    )
    context.exit(0 if report.repaired == len(report.findings) else 1)
