"""`hydrant db`: the schema of the database."""

import click

from cli.command import Group, confirm, reporting
from cli.console import Console
from cli.errors import Failure


@click.group(
    cls=Group,
    examples=["hydrant db upgrade", "hydrant db downgrade base --yes    deletes all data"],
)
def db() -> None:
    """Bring the database (DATABASE_URL) to this version's schema, or back to an older one."""


@db.command(examples=["hydrant db upgrade", "DATABASE_URL=postgresql://hydrant@db/hydrant hydrant db upgrade"])
@click.argument("revision", default="head")
@reporting
def upgrade(console: Console, revision: str) -> None:
    """Migrate up to REVISION (the newest, unless given). A database that is there already stays as it is.

    Safe to run from several machines at once: one migrates, the others wait.
    """
    _migrate(console, revision, up=True)


@db.command(examples=["hydrant db downgrade 0001 --yes", "hydrant db downgrade base --yes    deletes all data"])
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reporting
def downgrade(console: Console, revision: str, yes: bool) -> None:
    """Migrate down to REVISION; "base" deletes all data. Make a backup first, and stop the services."""
    confirm(console, f"Migrate down to {revision}? Data that the older schema has no place for is deleted.", yes=yes)
    _migrate(console, revision, up=False)


def _migrate(console: Console, revision: str, *, up: bool) -> None:
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError

    from cli.workspace import open_engine
    from registry import migrate
    from registry.settings import load_settings

    engine = open_engine(load_settings())
    try:
        (migrate.upgrade if up else migrate.downgrade)(engine, revision)
        with engine.connect() as connection:
            now_at = MigrationContext.configure(connection).get_current_revision()
    except CommandError as error:
        raise Failure(f"{error}; name a revision of migrations/versions, head or base", "revision") from None
    finally:
        engine.dispose()
    console.show({"revision": now_at}, [f"the database is at {now_at or 'base: it is empty'}"])
