"""What the gateways say of demand: who waits for which model, what runs where, which routes they have seen (Redis)."""

import json
from collections import Counter
from dataclasses import dataclass, field

from redis import Redis

ACTIVITY_STALE_MS = 5_000
GATEWAY_DEAD_MS = 10_000


@dataclass
class ModelDemand:
    """One model's demand, summed over live gateways."""

    waiting: int = 0
    oldest_at_ms: int | None = None
    running: int = 0
    last_request_at_ms: int | None = None


@dataclass
class Demand:
    """Demand of all models. `routes_version` is what every live gateway has seen; None when no gateway lives."""

    models: dict[str, ModelDemand] = field(default_factory=dict)
    running: Counter[str] = field(default_factory=Counter)
    routes_version: int | None = None


def read_demand(redis: Redis, now_ms: int) -> Demand:
    """Read every gateway's last word. An entry that is not refreshed counts as nothing: its gateway is gone."""
    demand = Demand()
    names = sorted(bytes(name).decode() for name in redis.smembers("hyd:activity:models"))
    pipe = redis.pipeline(transaction=False)
    pipe.hgetall("hyd:gateways")
    for name in names:
        pipe.hgetall(f"hyd:activity:{name}")
    gateways, *activities = pipe.execute()
    seen = [
        beat["routes_version"]
        for beat in map(json.loads, gateways.values())
        if now_ms - beat["at_ms"] < GATEWAY_DEAD_MS
    ]
    demand.routes_version = min(seen, default=None)
    for name, entries in zip(names, activities, strict=True):
        model = demand.models.setdefault(name, ModelDemand())
        for entry in map(json.loads, entries.values()):
            model.last_request_at_ms = _latest(model.last_request_at_ms, entry.get("last_request_at_ms"))
            if now_ms - entry["at_ms"] >= ACTIVITY_STALE_MS:
                continue
            model.waiting += entry["waiting"]
            model.running += entry["running"]
            oldest = entry.get("oldest_at_ms")
            if entry["waiting"] and oldest is not None:
                model.oldest_at_ms = min(oldest, model.oldest_at_ms or oldest)
            demand.running.update(entry.get("groups", {}))
    return demand


def _latest(a: int | None, b: int | None) -> int | None:
    return max((x for x in (a, b) if x is not None), default=None)
