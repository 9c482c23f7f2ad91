"""`gridwatch version`."""

from __future__ import annotations

from importlib.metadata import version

import click

from command.cli import say


@click.command("version", help=say("cli.version.help"))
def command() -> None:
    """Print the distribution's version."""
    click.echo(version("gridwatch"))
