"""Connections to the database: SQLite (WAL) by default, Postgres through psycopg 3 by URL.

On SQLite a transaction takes the write lock when it begins (`BEGIN IMMEDIATE`), so two writers queue instead of one of
them failing half-way with "database is locked"; `read_scope` begins without it, so readers never queue.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

from registry.errors import InvalidError

SQLITE_BUSY_TIMEOUT_MS = 30_000
POSTGRES_CONNECT_TIMEOUT_S = "10"
POSTGRES_LOCK_TIMEOUT = "60s"
_READ_ONLY = "hydrant_read_only"

SessionFactory = sessionmaker[Session]


def make_engine(url: str) -> Engine:
    """An engine for `sqlite:///path` or `postgresql://...`. Raises InvalidError for any other kind of URL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidError("DATABASE_URL is not a database URL; use sqlite:///path or postgresql://...") from None
    backend = parsed.get_backend_name()
    if backend == "postgres":  # the form that hosting providers print
        parsed, backend = parsed.set(drivername="postgresql"), "postgresql"
    if backend == "postgresql":
        # A server that does not answer, or a lock that is never given back, is an error, which the next tick retries.
        query = {"connect_timeout": POSTGRES_CONNECT_TIMEOUT_S, **parsed.query}
        parsed = parsed.set(drivername="postgresql+psycopg", query=query)
        engine = create_engine(parsed, pool_pre_ping=True, pool_size=10)
        event.listen(engine, "connect", _prepare_postgres)
        return engine
    if backend != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise InvalidError("DATABASE_URL must be sqlite:///path/to/file or postgresql://...", "DATABASE_URL")
    engine = create_engine(parsed, pool_size=10)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_postgres(connection: Any, _record: Any) -> None:
    # Not in the connection's options: those are the URL's own.
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{POSTGRES_LOCK_TIMEOUT}'")
    connection.commit()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin transactions by itself, lazily and never IMMEDIATE; SQLAlchemy documents this way out.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # the ledger acknowledges Redis after a commit: it must be on disk
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def make_session_factory(engine: Engine) -> SessionFactory:
    """Sessions whose objects stay readable after the commit, without another query."""
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def session_scope(factory: SessionFactory) -> Iterator[Session]:
    """A session for a change: commits when the block ends, rolls back when it raises.

    Raises RuntimeError if the transaction ended before the block did (a failed flush ends it, even when the block
    caught the error): the changes before that are lost, and nobody may take them for done.
    """
    with factory() as session, session.begin() as transaction:
        yield session
        if not transaction.is_active:
            raise RuntimeError("the transaction was rolled back before its end; none of its changes were kept")


@contextmanager
def read_scope(factory: SessionFactory) -> Iterator[Session]:
    """A session that only reads, and never waits for writers. What it changed, if anything, is rolled back."""
    with factory(bind=_reading(factory.kw["bind"]), autoflush=False) as session:
        yield session


@contextmanager
def separate_reader(session: Session) -> Iterator[Session]:
    """Another, reading session on the same database: it sees what is committed, and nothing that `session` still has to
    commit."""
    with Session(_reading(session.get_bind().engine), autoflush=False) as reader:
        yield reader


def _reading(engine: Engine) -> Engine:
    return engine.execution_options(**{_READ_ONLY: True, "postgresql_readonly": True})
