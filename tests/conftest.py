"""Fixtures that every part's tests share."""

import signal

from support.leaks import pytest_runtest_makereport
from support.redis_server import durable_redis_server, redis_server

__all__ = ["durable_redis_server", "pytest_runtest_makereport", "redis_server"]

# A suite started with nohup ignores it, and so would every process under test that is asked to end by it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
