"""`gridwatch reload`: the running town reads its files again; exit code 1 when they are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from command.cli import lang, say
from command.control import ask
from command.settings import Settings


@click.command("reload", help=say("reload.help"))
@click.option("--home", type=click.Path(path_type=Path), help=say("up.home.help"))
@click.option("--json", "as_json", is_flag=True, help=say("reload.json.help"))
def command(home: Path | None, as_json: bool) -> None:
    """Ask the supervisor and say what it did."""
    settings = Settings.from_environment(home=home and home.absolute())
    answer = ask(settings.control_socket, "reload")
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
    elif answer["ok"]:
        counts = {key: len(answer[key]) for key in ("added", "removed", "changed", "moved")}
        click.echo(say("reload.done", **counts))
        if answer["late"]:
            click.echo(say("reload.late", parts=", ".join(answer["late"])), err=True)
    else:
        for problem in answer["problems"]:
            click.echo(f"{problem['file']}:{problem['line']}: {problem[lang()]}", err=True)
        click.echo(say("reload.kept", count=len(answer["problems"])), err=True)
    sys.exit(0 if answer["ok"] else 1)
