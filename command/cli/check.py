"""`gridwatch check`: whether streams.yaml and grids.geojson can be used, line by line."""

from __future__ import annotations

import json
from pathlib import Path

import click

from command.check import Report, check_files
from command.cli import lang, say
from command.settings import Settings


@click.command("check", help=say("cli.check.help"))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help=say("cli.check.json"))
@click.pass_context
def command(context: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Exit code 0 without errors (warnings pass), 1 with, 2 for a wrong call."""
    if files:
        paths = list(files)
    else:
        settings = Settings.from_environment()
        paths = [_from_here(settings.streams), _from_here(settings.grids)]
    report = check_files(paths)
    if as_json:
        click.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=2))
    else:
        _print(report)
    context.exit(0 if report.ok else 1)


def _print(report: Report) -> None:
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
