"""`gridwatch check`: whether streams.yaml and grids.geojson can be used, line by line; with --live the cameras too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from command.check import Report, check_files
from command.check_live import Measured, Window, check_live
from command.cli import lang, say
from command.settings import Settings
from ingest.errors import GridwatchError


@click.command("check", help=say("cli.check.help"))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--live", is_flag=True, help=say("cli.check.live"))
@click.option("--seconds", type=click.FloatRange(3, 120), default=12.0, help=say("cli.check.seconds"))
@click.option("--json", "as_json", is_flag=True, help=say("cli.check.json"))
@click.pass_context
def command(context: click.Context, files: tuple[Path, ...], live: bool, seconds: float, as_json: bool) -> None:
    """Exit code 0 without errors (warnings pass), 1 with, 2 for a wrong call."""
    settings = Settings.from_environment()
    paths = list(files) or [_from_here(settings.streams), _from_here(settings.grids)]
    report = check_files(paths)
    if live:
        _measure(report, paths, seconds, settings.look_every_s)
    if as_json:
        click.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=2))
    else:
        _print(report)
    context.exit(0 if report.ok else 1)


def _measure(report: Report, paths: list[Path], seconds: float, look_every_s: float) -> None:
    """Ask the good cameras themselves and add what is found."""
    file = next((str(path) for path in paths if path.suffix.lower() in (".yaml", ".yml")), None)
    if file is None:
        raise GridwatchError("check.live_needs_cameras")
    if report.streams is None:
        return  # why not stands among the problems
    cameras = report.streams.cameras
    click.echo(say("check.measuring", cameras=len(cameras), seconds=f"{seconds:g}"), err=True)
    report.measured, problems = asyncio.run(
        check_live(
            cameras,
            file=file,
            line=report.streams.line,
            look_every_s=look_every_s,
            window=Window(least_s=min(6.0, seconds), most_s=seconds),
        )
    )
    report.problems += problems


def _print_measured(measured: list[Measured]) -> None:
    click.echo(say("check.measured", streams=len(measured)))
    for one in measured:
        offset_s = one.clock_offset_s
        click.echo(
            say(
                "check.stream",
                camera=one.camera,
                stream=one.stream,
                codec={"h264": "H.264", "hevc": "H.265"}[one.codec],
                width=one.width,
                height=one.height,
                fps=say("check.unknown") if one.fps is None else f"{one.fps:.1f}",
                gop=f"{'>' if one.gop_open else ''}{one.gop_s:.1f}",
                b_frames=say("check.with_b_frames") if one.b_frames else "",
                mbps=f"{one.bitrate_bps / 1e6:.2f}",
                transport=one.transport,
                sets=one.parameter_sets or say("check.unknown"),
                clock=say("check.unknown") if offset_s is None else f"{offset_s:+.1f} s",
            )
        )


def _print(report: Report) -> None:
    if report.measured is not None:
        _print_measured(report.measured)
    for problem in report.problems:
        mark = click.style(say(f"check.{problem.severity}"), fg="red" if problem.severity == "error" else "yellow")
        click.echo(f"{problem.file}:{problem.line}: {mark} {problem.sentence(lang())} [{problem.code}]")
    looked_at = [
        say(f"check.{what}", count=count)
        for what, count in (("cameras", report.cameras), ("grids", report.grids))
        if count is not None
    ]
    code = "check.fine" if not report.problems else "check.result"
    counted = say("check.and").join(looked_at)
    click.echo(say(code, counted=counted, errors=report.errors, warnings=report.warnings))
    if report.cameras is not None and report.grids is not None and not report.places_checked:
        click.echo(say("check.places_not_checked"))


def _from_here(path: Path) -> Path:
    """Short names in what is printed, where the file lies below the current folder."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
