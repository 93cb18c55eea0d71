"""The admin UI in the test's own process, once without Redis (the default) and once with a real one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.admin_app import AdminApp, running_app
from support.redis_server import RedisServer


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[AdminApp]:
    """An app whose Redis is away: every page must work without it."""
    with running_app(tmp_path, f"unix://{tmp_path}/nobody.sock") as running:
        yield running


@pytest.fixture
def admin_with_redis(tmp_path: Path, redis_server: RedisServer) -> Iterator[AdminApp]:
    """An app with a Redis of its own."""
    with running_app(tmp_path, redis_server.url) as running:
        yield running
