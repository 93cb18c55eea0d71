"""What Alembic runs: migrations on the connection that `registry.migrate` passed in, or, from Alembic's own command
line, on the database that the settings name."""

from alembic import context
from sqlalchemy import Connection

from registry.db import make_engine
from registry.migrate import migrating
from registry.models import Base
from registry.settings import load_settings


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        # SQLite cannot alter a column in place: such changes copy the table.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    context.run_migrations()


def _run() -> None:
    if context.is_offline_mode():
        raise SystemExit("migrations look at the database they change; run them without --sql")
    passed: Connection | None = context.config.attributes.get("connection")
    if passed is not None:
        _migrate(passed)
        return
    engine = make_engine(load_settings().database_url.get_secret_value())
    try:
        with migrating(engine) as connection:
            _migrate(connection)
    finally:
        engine.dispose()


_run()
