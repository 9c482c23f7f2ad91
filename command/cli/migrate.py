"""`gridwatch migrate`: the database's schema is brought to this program's, or shown what is missing."""

from __future__ import annotations

import click

from command.cli import say
from command.settings import Settings
from command.store.embedded import EmbeddedPostgres, running_conninfo
from command.store.migrate import migrate


@click.command("migrate", help=say("cli.migrate.help"))
@click.option("--dry-run", is_flag=True, help=say("cli.migrate.dry_run"))
def command(dry_run: bool) -> None:
    """Migrate `GRIDWATCH_DATABASE_URL`, else the embedded server, which is started for the purpose when it is down."""
    settings = Settings.from_environment()
    conninfo = settings.database_url or running_conninfo(settings.home)
    if conninfo is not None:
        _migrate(conninfo, dry_run)
        return
    server = EmbeddedPostgres.for_home(settings.home)
    try:
        _migrate(server.start(), dry_run)
    finally:
        server.stop()


def _migrate(conninfo: str, dry_run: bool) -> None:
    found = migrate(conninfo, dry_run=dry_run)
    for migration in found:
        click.echo(say("cli.migrate.would" if dry_run else "cli.migrate.applied", name=migration.name))
    if not found:
        click.echo(say("cli.migrate.nothing"))
