"""The clock, which adds no tick to a queue in which enough wait: nobody takes them while their worker is away."""

from typing import Any

from celery.beat import PersistentScheduler, ScheduleEntry
from redis import Redis
from redis.exceptions import RedisError

MAX_WAITING_TICKS = 16
"""As for the gateways' hints: one tick does the work of all that wait."""


class BoundedScheduler(PersistentScheduler):  # type: ignore[misc]
    """Celery's scheduler, but for that."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._redis: Redis | None = None
        super().__init__(*args, **kwargs)

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Send what is due, or leave it be."""
        if self._waiting(entry.options["queue"]) < MAX_WAITING_TICKS:
            return super().apply_async(entry, producer=producer, advance=advance, **kwargs)
        if advance:
            self.reserve(entry)
        return None

    def _waiting(self, queue: str) -> int:
        if self._redis is None:
            self._redis = Redis.from_url(self.app.conf.hydrant_redis_url, socket_timeout=10)
        try:
            return int(self._redis.llen(queue))
        except RedisError:
            return 0  # Celery finds out for itself, and says so
