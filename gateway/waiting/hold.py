"""Requests that wait for a worker: bounded, in arrival order within a tenant, turn by turn between tenants.

Held requests are woken by three things only: a change of the routes, the end of a request that had a worker's place,
and a worker being tried again after it could not be reached.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from gateway.errors import ApiError, unavailable
from gateway.readmodel.routes import BAD_SECONDS, ColdStart, Route, RouteTable
from gateway.readmodel.snapshot import HoldLimits

log = logging.getLogger(__name__)

RETRY_AFTER_FAILURE_S = 10


@dataclass(eq=False, slots=True)
class Waiter:
    """One held request. `ready` gets a route, or the `ApiError` that ends the wait.

    `avoid` are groups to take only where there is no other; `permit` raises the `ApiError` that ends the wait early;
    `service_class` is its tenant's; `traceparent` names its span, if it has one.
    """

    model: str
    tenant_id: str
    size_bytes: int
    arrived_at_ms: int
    avoid: Collection[str] = ()
    permit: Callable[[], None] = lambda: None
    service_class: str = "standard"
    traceparent: str | None = None
    claimed: bool = False
    ready: asyncio.Future[Route] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def claim(self) -> Route:
        """The route, once `ready` is done; it is now the caller's to give back. Raises the `ApiError` of the wait."""
        route = self.ready.result()
        self.claimed = True
        return route


class Hold:
    """All held requests of this process. Everything here runs on one event loop and awaits nothing."""

    def __init__(self, routes: RouteTable, limits: Callable[[], HoldLimits]) -> None:
        self._routes = routes
        self._limits = limits
        self._queues: dict[str, OrderedDict[str, deque[Waiter]]] = {}
        self.count = 0
        self.bytes = 0

    def take(self, model: str, avoid: Collection[str] = ()) -> Route | None:
        """A route right now, unless others wait for this model already."""
        return None if model in self._queues else self._routes.take(model, avoid)

    def enter(self, waiter: Waiter) -> None:
        """Puts a request in line. Raises `ApiError` when the hold is full and this tenant has its share of it."""
        for victim in self._victims(waiter):
            self._remove(victim)
            victim.ready.set_exception(displaced())
        tenants = self._queues.setdefault(waiter.model, OrderedDict())
        tenants.setdefault(waiter.tenant_id, deque()).append(waiter)
        self.count += 1
        self.bytes += waiter.size_bytes

    def leave(self, waiter: Waiter) -> None:
        """Takes a request out of line, whatever became of it: given up, refused, or given a route it did not use."""
        if not waiter.ready.done():
            self._remove(waiter)
        elif waiter.ready.exception() is None and not waiter.claimed:
            self.give_back(waiter.ready.result())

    def give_back(self, route: Route) -> None:
        """Frees a route's place for whoever is next."""
        self._routes.give_back(route)
        self.wake(route.model)

    def mark_bad(self, route: Route) -> None:
        """Passes a worker over for a while, then lets the line try it again."""
        self._routes.mark_bad(route)
        asyncio.get_running_loop().call_later(BAD_SECONDS + 0.01, self.wake, route.model)

    def wake(self, model: str) -> None:
        """Hands out routes while there are any; ends the waits that a failed cold start has made pointless."""
        tenants = self._queues.get(model)
        while tenants:
            tenant_id, queue = next(iter(tenants.items()))
            waiter = queue[0]
            route = self._routes.take(model, waiter.avoid)
            if route is None:
                break
            tenants.move_to_end(tenant_id)
            self._remove(waiter)
            waiter.ready.set_result(route)
        failure = self._routes.cold_start(model)
        if failure is not None and failure.state == "failed" and model in self._queues:
            self._fail(model, failure)

    def wake_all(self) -> None:
        """The routes have changed."""
        for model in list(self._queues):
            self.wake(model)

    def recheck(self) -> None:
        """Keys, tenants or models have changed: ends the waits of those that are not in force any more."""
        for tenants in list(self._queues.values()):
            for waiter in [waiter for queue in tenants.values() for waiter in queue]:
                try:
                    waiter.permit()
                except ApiError as error:
                    self._remove(waiter)
                    waiter.ready.set_exception(error)

    def is_cold(self, model: str) -> bool:
        """Whether no worker serves the model now."""
        return not self._routes.serves(model)

    def starting(self, model: str) -> str | None:
        """The cold start that a model without any route waits for."""
        return self._routes.starting(model)

    def eta_ms(self, model: str) -> int | None:
        """When a model that does not serve is expected to (ms since the epoch); None: unknown."""
        return self._routes.eta_ms(model)

    def cold_starts(self, model: str) -> frozenset[str]:
        """The cold starts of the groups that serve a model now."""
        return self._routes.cold_starts(model)

    def waiting(self, model: str) -> tuple[int, dict[str, int]]:
        """How many wait for a model, and since when the first of each service class does (ms since the epoch)."""
        count, oldest = 0, dict[str, int]()
        for queue in self._queues.get(model, {}).values():
            for waiter in queue:
                count += 1
                oldest[waiter.service_class] = min(
                    waiter.arrived_at_ms, oldest.get(waiter.service_class, waiter.arrived_at_ms)
                )
        return count, oldest

    def traceparent(self, model: str) -> str | None:
        """The span of the first request in a model's line that has one: what a cold start is done for."""
        found = [w for queue in self._queues.get(model, {}).values() for w in queue if w.traceparent is not None]
        return min(found, key=lambda waiter: waiter.arrived_at_ms).traceparent if found else None

    def models(self) -> set[str]:
        """Models that somebody waits for."""
        return set(self._queues)

    def _fail(self, model: str, failure: ColdStart) -> None:
        failed_at_ms = failure.failed_at_ms or 0
        waiters = [one for queue in self._queues[model].values() for one in queue if one.arrived_at_ms < failed_at_ms]
        for waiter in waiters:
            self._remove(waiter)
            waiter.ready.set_exception(start_failed(model))
        if waiters:
            reason = failure.error or "no reason was given"
            log.warning("%s could not be started: %s (requests refused that waited: %d)", model, reason, len(waiters))

    def _victims(self, newcomer: Waiter) -> list[Waiter]:
        """Whom to send away for the newcomer: the newest of whichever tenant has most, while it has more than the
        newcomer's tenant would have. Raises `ApiError` 503 when that does not make room; then nobody is sent away."""
        limits = self._limits()
        count, size = self.count, self.bytes
        victims: list[Waiter] = []
        if count < limits.max_requests and size + newcomer.size_bytes <= limits.max_bytes:
            return victims
        lines: dict[str, list[Waiter]] = {newcomer.tenant_id: [newcomer]}
        for tenants in self._queues.values():
            for tenant_id, queue in tenants.items():
                lines.setdefault(tenant_id, []).extend(queue)
        for line in lines.values():
            line.sort(key=lambda waiter: waiter.arrived_at_ms)
        while count >= limits.max_requests or size + newcomer.size_bytes > limits.max_bytes:
            share = _count if count >= limits.max_requests else _bytes
            greediest = max(lines, key=lambda tenant_id: share(lines[tenant_id]))
            if share(lines[greediest]) <= share(lines[newcomer.tenant_id]):
                raise unavailable("Too many requests wait for models to start. Try again shortly.", "hold_full", 5)
            victims.append(lines[greediest].pop())
            count, size = count - 1, size - victims[-1].size_bytes
        return victims

    def _remove(self, waiter: Waiter) -> None:
        tenants = self._queues[waiter.model]
        queue = tenants[waiter.tenant_id]
        queue.remove(waiter)
        if not queue:
            del tenants[waiter.tenant_id]
        if not tenants:
            del self._queues[waiter.model]
        self.count -= 1
        self.bytes -= waiter.size_bytes


def _count(line: list[Waiter]) -> int:
    return len(line)


def _bytes(line: list[Waiter]) -> int:
    return sum(waiter.size_bytes for waiter in line)


def displaced() -> ApiError:
    """429: the hold is full, and this tenant has more in it than others."""
    return ApiError(
        429,
        "The line of waiting requests is full and most of it is yours: the newest gave way to another tenant's.",
        type_="requests",
        code="rate_limit_exceeded",
        retry_after_s=5,
    )


def start_failed(model: str) -> ApiError:
    """503: the model's cold start failed while the request waited. Why is of the cluster, so not for tenants."""
    return unavailable(
        f"The model `{model}` could not be started: no server is free for it now, or its last start failed. Try again "
        "later; the operator's console says why.",
        "model_start_failed",
        RETRY_AFTER_FAILURE_S,
    )
