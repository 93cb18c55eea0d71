"""What gateways write to Redis of themselves, without gateways (docs/interfaces.md, sections 1 and 5)."""

from __future__ import annotations

import json
from typing import Any

from redis import Redis

from registry.ids import now_ms

FRESH_MS = 60_000
"""Nothing here is refreshed by itself; what is not meant to be old is dated ahead, so a slow machine does no harm."""


class FakeGateway:
    """One gateway's heartbeat and activity."""

    def __init__(self, redis: Redis, gateway_id: str = "gw_1") -> None:
        self._redis = redis
        self.gateway_id = gateway_id

    def beat(self, *, routes_version: int | None = None, age_ms: int = 0) -> None:
        """Alive, having seen `routes_version` (None: the newest there is)."""
        newest = int(self._redis.get("hyd:routes:version") or 0)
        seen = newest if routes_version is None else routes_version
        beat = {"at_ms": now_ms() - (age_ms or -FRESH_MS), "routes_version": seen}
        self._redis.hset("hyd:gateways", self.gateway_id, json.dumps(beat))

    def activity(
        self, model: str, *, waiting: int = 0, groups: dict[str, int] | None = None, age_ms: int = 0, **changes: Any
    ) -> None:
        """Requests of a model: held ones, and running ones by group."""
        at_ms = now_ms() - age_ms
        running = groups or {}
        entry = {
            "at_ms": now_ms() - (age_ms or -FRESH_MS),
            "waiting": waiting,
            "oldest_at_ms": at_ms if waiting else None,
            "running": sum(running.values()),
            "last_request_at_ms": at_ms,
            "groups": running,
            "routes_version": 0,
        }
        self._redis.hset(f"hyd:activity:{model}", self.gateway_id, json.dumps(entry | changes))
        self._redis.sadd("hyd:activity:models", model)

    def routes(self, model: str) -> list[dict[str, Any]]:
        """Where requests of a model may go."""
        document = self._redis.hget("hyd:routes", model)
        return json.loads(document) if document else []

    def cold_start(self, model: str) -> dict[str, Any] | None:
        """How the model's start is faring."""
        document = self._redis.hget("hyd:coldstart", model)
        return json.loads(document) if document else None
