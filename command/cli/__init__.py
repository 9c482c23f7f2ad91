"""The `gridwatch` command: one file a verb, imported only when it is called, so that `--help` costs no numpy."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from ingest.errors import GridwatchError, sentence

VERBS = ("up", "demo", "reload", "check", "plan", "simulate", "patrol", "migrate", "recordings", "version")


def lang() -> str:
    """The language that people are spoken to in: `GRIDWATCH_LANG`, Chinese by default."""
    return "en" if os.environ.get("GRIDWATCH_LANG", "zh").lower().startswith("en") else "zh"


def say(code: str, **facts: object) -> str:
    """The sentence of a code in the person's language."""
    return sentence(code, lang(), **facts)


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = import_module(f"command.cli.{name}").command
        return command


@click.group(cls=_Verbs, help=say("cli.help"), context_settings={"help_option_names": ["-h", "--help"]})
def gridwatch() -> None:
    """The group itself does nothing; the text that people read is `cli.help`."""


def main() -> None:
    """Entry point: an error that a person should read ends with its sentence and exit code 1, never a traceback."""
    try:
        gridwatch()
    except GridwatchError as error:
        click.echo(f"{error.sentence(lang())} [{error.code}]", err=True)
        sys.exit(1)
