"""What the gateways say of demand: who waits for which model, what runs where, which routes they have seen (Redis)."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from orchestrator import service_class
from orchestrator.service_class import ServiceClass

ACTIVITY_STALE_MS = 5_000
GATEWAY_DEAD_MS = 10_000


@dataclass
class ModelDemand:
    """One model's demand, summed over live gateways."""

    waiting: int = 0
    oldest_at_ms: int | None = None
    oldest_by_class: dict[ServiceClass, int] = field(default_factory=dict)
    running: int = 0
    last_request_at_ms: int | None = None
    traceparent: str | None = None  # the span of a request that waits for it


@dataclass
class Demand:
    """Demand of all models.

    routes_version  what every live gateway has seen; None when no gateway lives.
    known           whether every live gateway must have spoken since the controller began to look.
    """

    models: dict[str, ModelDemand] = field(default_factory=dict)
    running: Counter[str] = field(default_factory=Counter)
    routes_version: int | None = None
    known: bool = True


def read_demand(redis: Redis, now_ms: int) -> Demand:
    """Read every gateway's last word.

    A gateway that is silent no longer waits for anything; its requests count as running until it is taken for dead,
    for a stalled gateway may still be passing tokens on.
    """
    demand = Demand()
    names = sorted(_text(name) for name in redis.smembers("hyd:activity:models"))
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
            model.last_request_at_ms = _latest(model.last_request_at_ms, _used_at_ms(entry, now_ms))
            if now_ms - entry["at_ms"] >= GATEWAY_DEAD_MS:
                continue
            model.running += entry["running"]
            demand.running.update(entry.get("groups", {}))
            if now_ms - entry["at_ms"] >= ACTIVITY_STALE_MS:
                continue
            model.waiting += entry["waiting"]
            oldest = entry.get("oldest_at_ms")
            if entry["waiting"] and oldest is not None:
                model.oldest_at_ms = min(oldest, model.oldest_at_ms or oldest)
                model.traceparent = model.traceparent or entry.get("traceparent")
                # An older gateway tells no classes.
                by_class = entry.get("oldest_by_class") or {ServiceClass.STANDARD.value: oldest}
                for name, at_ms in by_class.items():
                    one = service_class.named(name)
                    model.oldest_by_class[one] = min(at_ms, model.oldest_by_class.get(one, at_ms))
    return demand


def is_known(watching_ms: int, now_ms: int) -> bool:
    """Whether somebody who looks since `watching_ms` (tasks/watch.py) must have seen every live gateway's word."""
    return now_ms - watching_ms >= GATEWAY_DEAD_MS


def _used_at_ms(entry: dict[str, Any], now_ms: int) -> int | None:
    """When a gateway last had a request of a model. One that runs or waits is use for as long as the gateway speaks of
    it: a long stream must not count as ended when it began, should its gateway die."""
    begun: int | None = entry.get("last_request_at_ms")
    return _latest(begun, min(entry["at_ms"], now_ms)) if entry["running"] or entry["waiting"] else begun


def _latest(a: int | None, b: int | None) -> int | None:
    return max((x for x in (a, b) if x is not None), default=None)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
