"""Bringing a database to the schema of this version, and telling whether it is there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from registry.errors import ConflictError

_ROOT = Path(__file__).resolve().parent.parent
_ADVISORY_LOCK = 0x6879_6472  # any number that nothing else in this database uses


def alembic_config() -> Config:
    """Alembic's configuration, usable from any working directory."""
    return Config(_ROOT / "alembic.ini")


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate up to `revision`, all or nothing. At the newest schema already, nothing happens."""
    _run(engine, command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Migrate down to `revision` ("base" empties the database: all data is gone)."""
    _run(engine, command.downgrade, revision)


def require_current(engine: Engine) -> None:
    """Raises ConflictError, saying what to run, unless the database has exactly this version's schema."""
    wanted = ScriptDirectory.from_config(alembic_config()).get_current_head()
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found != wanted:
        raise ConflictError(
            f"the database has schema {found or 'none'}, this version needs {wanted}; run: alembic upgrade head"
        )


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """A transaction that excludes other migrations: processes that start together and all migrate do it once.

    SQLite changes a column by copying its table, which needs foreign keys off, and they can be switched only outside a
    transaction; they are checked as a whole before the commit instead.
    """
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            with connection.begin():
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
                yield connection
            return
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                yield connection
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken is not None:
                    raise ConflictError(f"the migration would break a reference from table {broken[0]} to {broken[2]}")
        finally:
            driver.execute("PRAGMA foreign_keys = ON")


def _run(engine: Engine, action: Callable[[Config, str], None], revision: str) -> None:
    config = alembic_config()
    with migrating(engine) as connection:
        config.attributes["connection"] = connection
        action(config, revision)
