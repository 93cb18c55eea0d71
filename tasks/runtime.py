"""What every task of one worker process shares: settings, database sessions, the Redis connection."""

import gc
from dataclasses import dataclass, field
from functools import cache

from redis import Redis

from registry.db import SessionFactory, make_engine, make_session_factory
from registry.settings import Settings, load_settings
from tasks.facts import Facts


@dataclass(frozen=True)
class Runtime:
    """Opened once a process, after Celery has forked."""

    settings: Settings
    sessions: SessionFactory
    redis: Redis
    facts: Facts = field(default_factory=Facts)


@cache
def runtime() -> Runtime:
    """This process' connections; the first call opens them."""
    settings = load_settings()
    # What modules have made stays as long as the process. Left out of full garbage collections, which fall into
    # decisions over thousands of nodes, it makes them ten times shorter (docs/simulation.md).
    gc.collect()
    gc.freeze()
    return Runtime(
        settings=settings,
        sessions=make_session_factory(make_engine(settings.database_url.get_secret_value())),
        redis=Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=10, health_check_interval=30),
    )
