"""What only Redis knows: who waits for a model now, and why a model cannot start."""

import json
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

STALE_MS = 5_000
"""A gateway's entry that is older counts for nothing (docs/interfaces.md, section 5)."""


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """Requests of one model at this moment, over all gateways."""

    waiting: int = 0
    running: int = 0


def demand(redis: Redis, names: list[str], now_ms: int) -> dict[str, ModelDemand]:
    """Demand of each of the named models; empty when Redis does not answer."""
    try:
        pipe = redis.pipeline(transaction=False)
        for name in names:
            pipe.hvals(f"hyd:activity:{name}")
        answers = pipe.execute()
    except RedisError:
        return {}
    return {name: _sum(entries, now_ms) for name, entries in zip(names, answers, strict=True)}


def start_states(redis: Redis) -> dict[str, dict[str, Any]]:
    """Model name -> its `hyd:coldstart` entry (starting, waiting or failed, and why); empty without Redis."""
    try:
        found = redis.hgetall("hyd:coldstart")
    except RedisError:
        return {}
    return {_text(name): json.loads(entry) for name, entry in found.items()}


def _sum(entries: list[bytes], now_ms: int) -> ModelDemand:
    fresh = [entry for entry in map(json.loads, entries) if now_ms - entry["at_ms"] < STALE_MS]
    return ModelDemand(sum(entry["waiting"] for entry in fresh), sum(entry["running"] for entry in fresh))


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
