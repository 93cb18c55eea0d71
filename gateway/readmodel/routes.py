"""Which workers serve which model, and which of them a request should take. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import orjson

# How long a worker that could not be reached is passed over by this process. Never set by an answer of the worker.
BAD_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Route:
    """A group that takes requests for `model` (docs/interfaces.md, section 3). `capacity` None: unlimited.

    Or the way to a provider: `provider` is what the hosted process is told of it (JSON), and there is no group.
    """

    model: str
    group_id: str
    url: str
    api_key: str
    state: str
    cold_start_id: str | None
    prefer: int
    capacity: int | None
    provider: bytes | None = None


@dataclass(frozen=True, slots=True)
class ColdStart:
    """The controller's word on a starting model, or on its last failure. `eta_ms`: when it expects a first token."""

    cold_start_id: str | None
    state: str
    eta_ms: int | None
    error: str | None
    failed_at_ms: int | None


class RouteTable:
    """The routes as last read, and what this process knows of them: requests in flight, recent lost connections."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.version = 0
        self._clock = clock
        self._routes: dict[str, list[Route]] = {}
        self._cold_starts: dict[str, ColdStart] = {}
        self._in_flight: Counter[tuple[str, str]] = Counter()
        self._bad_until: dict[str, float] = {}

    def replace(self, version: int, routes: dict[str, list[Route]], cold_starts: dict[str, ColdStart]) -> None:
        """Takes over what was read from Redis."""
        self.version, self._routes, self._cold_starts = version, routes, cold_starts
        now = self._clock()
        self._bad_until = {group: until for group, until in self._bad_until.items() if until > now}

    def take(self, model: str, avoid: Collection[str] = ()) -> Route | None:
        """The best route with room, counted as in flight: highest `prefer`, then least loaded. None: there is none.

        A group of `avoid` is taken only where there is no other.
        """
        now = self._clock()
        best: Route | None = None
        best_rank = (False, 0, 0)
        for route in self._routes.get(model, ()):
            load = self._in_flight[model, route.group_id]
            if self._bad_until.get(route.group_id, 0.0) > now:
                continue
            if route.capacity is not None and load >= route.capacity:
                continue
            rank = (route.group_id not in avoid, route.prefer, -load)
            if best is None or rank > best_rank:
                best, best_rank = route, rank
        if best is not None:
            self._in_flight[model, best.group_id] += 1
        return best

    def give_back(self, route: Route) -> None:
        """The request that took this route is over."""
        key = (route.model, route.group_id)
        self._in_flight[key] -= 1
        if not self._in_flight[key]:
            del self._in_flight[key]

    def mark_bad(self, route: Route) -> None:
        """Passes a worker over for `BAD_SECONDS`: it could not be reached, or broke off."""
        self._bad_until[route.group_id] = self._clock() + BAD_SECONDS

    def cold_start(self, model: str) -> ColdStart | None:
        """What is known of the model's start."""
        return self._cold_starts.get(model)

    def serves(self, model: str) -> bool:
        """Whether any worker serves it, be it busy."""
        return bool(self._routes.get(model))

    def starting(self, model: str) -> str | None:
        """The cold start that a model without any route waits for."""
        start = self._cold_starts.get(model)
        return None if start is None or self._routes.get(model) else start.cold_start_id

    def eta_ms(self, model: str) -> int | None:
        """When a model that does not serve is expected to; None: unknown."""
        start = self._cold_starts.get(model)
        return None if start is None else start.eta_ms

    def cold_starts(self, model: str) -> frozenset[str]:
        """The cold starts of the groups that serve a model now."""
        return frozenset(route.cold_start_id for route in self._routes.get(model, ()) if route.cold_start_id)

    def running(self, model: str) -> dict[str, int]:
        """Requests in flight, by group."""
        return {group: count for (name, group), count in self._in_flight.items() if name == model}

    def models_in_flight(self) -> set[str]:
        """Models that have a request in flight."""
        return {name for name, _ in self._in_flight}


def parse_routes(model: str, document: bytes) -> list[Route]:
    """Reads one field of `hyd:routes`. Raises ValueError, KeyError or TypeError."""
    entries: Any = orjson.loads(document)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise TypeError("routes are not a list of objects")
    routes = [
        Route(
            model=model,
            group_id=entry["group_id"],
            url=entry["url"],
            api_key=entry["api_key"],
            state=entry["state"],
            cold_start_id=entry.get("cold_start_id"),
            prefer=entry["prefer"],
            capacity=entry.get("capacity"),
        )
        for entry in entries
    ]
    for route in routes:
        # A wrong type must show here, not in the middle of a request.
        texts = (route.group_id, route.url, route.api_key, route.state, route.cold_start_id or "")
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"a text of {route.group_id} is none")
        if not all(type(number) is int for number in (route.prefer, route.capacity or 0)):
            raise TypeError(f"a number of {route.group_id} is none")
    return [replace(route, url=route.url.rstrip("/")) for route in routes]


def parse_cold_start(document: bytes) -> ColdStart:
    """Reads one field of `hyd:coldstart`. Raises ValueError, KeyError or TypeError."""
    entry: Any = orjson.loads(document)
    if not isinstance(entry, dict):
        raise TypeError("a cold start is not an object")
    return ColdStart(
        entry["cold_start_id"], entry["state"], entry.get("eta_ms"), entry.get("error"), entry.get("failed_at_ms")
    )
