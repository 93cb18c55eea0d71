"""A controller and a ledger on a real database and a real Redis, without workers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from redis import Redis
from support.databases import empty_engine, postgres_server, session_factory
from support.redis_server import RedisServer

from registry.settings import load_settings

__all__ = ["empty_engine", "postgres_server", "session_factory"]


@pytest.fixture(scope="session")
def task_modules() -> Iterator[ModuleType]:
    """The tasks, imported with a home of their own: the import opens settings, and must not touch the user's."""
    with tempfile.TemporaryDirectory(prefix="hyd-home-") as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRANT_HOME", home)
        for name in ("HYDRANT_NODE", "REDIS_URL", "DATABASE_URL"):
            patch.delenv(name, raising=False)
        import tasks.control
        import tasks.ledger

        yield tasks


@pytest.fixture
def here(
    task_modules: Any,
    redis_server: RedisServer,
    session_factory: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """What tasks share, for this test alone; messages go to this test's Redis."""
    from tasks.app import make_app
    from tasks.runtime import Runtime

    monkeypatch.setenv("HYDRANT_HOME", str(tmp_path))
    # The pause before a consolidation is tested where time is a number; here it would be waited for.
    monkeypatch.setattr("orchestrator.consolidation.FIRST_TOKENS_MS", 0)
    client = Redis.from_url(redis_server.url)
    shared = Runtime(load_settings(), session_factory, client)
    app = make_app(redis_server.url, None)
    monkeypatch.setattr(task_modules.control, "runtime", lambda: shared)
    monkeypatch.setattr(task_modules.control, "app", app)
    monkeypatch.setattr(task_modules.ledger, "runtime", lambda: shared)
    yield shared
    app.close()
    client.close()


@pytest.fixture
def bench(here: Any) -> Any:
    """The controller with two nodes that have reported."""
    from support.control_bench import Bench

    made = Bench(here)
    made.report()
    return made
