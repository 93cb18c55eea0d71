"""Fixtures that every part's tests share."""

from support.redis_server import durable_redis_server, redis_server

__all__ = ["durable_redis_server", "redis_server"]
