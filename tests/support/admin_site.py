"""A whole admin UI for a browser: the process, its Redis, and a small busy installation in its database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.admin_app import admin_process, make_database
from support.admin_samples import Samples, add_samples
from support.redis_server import RedisServer

from registry.db import SessionFactory, make_engine, make_session_factory, session_scope
from registry.ids import now_ms


@dataclass(frozen=True)
class Site:
    """A running admin UI: its address, its database, and what is in it."""

    address: str
    sessions: SessionFactory
    samples: Samples


@contextmanager
def running_site() -> Iterator[Site]:
    """Starts `python -m admin_ui` and a Redis of its own; both end with the block."""
    with tempfile.TemporaryDirectory(prefix="hyd-admin-") as directory:
        home = Path(directory)
        make_database(home / "hydrant.db")
        engine = make_engine(f"sqlite:///{home}/hydrant.db")
        sessions = make_session_factory(engine)
        with session_scope(sessions) as session:
            samples = add_samples(session, now_ms())
        redis = RedisServer(home).start()
        try:
            with admin_process(home, redis.url) as address:
                yield Site(address, sessions, samples)
        finally:
            redis.stop()
            engine.dispose()
