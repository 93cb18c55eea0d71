"""The admin UI in the test's own process, once without Redis (the default) and once with a real one."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.admin_app import AdminApp, make_database, running_app
from support.admin_samples import Samples, add_samples
from support.redis_server import RedisServer

from registry.db import session_scope
from registry.ids import now_ms


@pytest.fixture(scope="session")
def made_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with an account of each role, made once."""
    path = tmp_path_factory.mktemp("admin") / "made.db"
    make_database(path)
    return path


@pytest.fixture
def database(made_database: Path, tmp_path: Path) -> Path:
    """A copy of it, for this test alone."""
    return Path(shutil.copy(made_database, tmp_path / "admin.db"))


@pytest.fixture
def no_redis(tmp_path: Path) -> str:
    """The URL of a Redis that is away."""
    return f"unix://{tmp_path}/nobody.sock"


@pytest.fixture
def admin(database: Path, no_redis: str) -> Iterator[AdminApp]:
    """An app whose Redis is away: every page must work without it."""
    with running_app(database, no_redis) as running:
        yield running


@pytest.fixture
def admin_with_redis(database: Path, redis_server: RedisServer) -> Iterator[AdminApp]:
    """An app with a Redis of its own."""
    with running_app(database, redis_server.url) as running:
        yield running


@pytest.fixture
def samples(admin: AdminApp) -> Samples:
    """A small busy installation in `admin`'s database."""
    with session_scope(admin.sessions) as session:
        return add_samples(session, now_ms())
