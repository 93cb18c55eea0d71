"""Databases for tests: every test that takes `session_factory` runs on SQLite and on Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from support.postgres import PostgresServer, postgres_server

from registry.db import SessionFactory, make_engine, make_session_factory
from registry.models import Base

__all__ = ["empty_engine", "postgres_server", "session_factory"]


@pytest.fixture(params=["sqlite", "postgres"])
def empty_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on a database without any table."""
    if request.param == "sqlite":
        yield from _engine(f"sqlite:///{tmp_path}/hydrant.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.new_schema() as url:
        yield from _engine(url)


@pytest.fixture
def session_factory(empty_engine: Engine) -> SessionFactory:
    """Sessions on a database with the whole schema (test_registry_migrations proves that migrations make the same)."""
    Base.metadata.create_all(empty_engine)
    return make_session_factory(empty_engine)


def _engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    yield engine
    engine.dispose()
