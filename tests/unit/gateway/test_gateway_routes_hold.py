"""Which worker a request takes, and the order in which waiting requests get one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.errors import ApiError
from gateway.readmodel.routes import BAD_SECONDS, ColdStart, Route, RouteTable, parse_routes
from gateway.readmodel.snapshot import HoldLimits
from gateway.waiting.hold import Hold, Waiter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def route(group_id: str, *, prefer: int = 1, capacity: int | None = 2, model: str = "m") -> Route:
    return Route(model, group_id, "http://127.0.0.1:1", "k", "standalone", None, prefer, capacity)


def table(*routes: Route, clock: Clock | None = None) -> RouteTable:
    routes_table = RouteTable(clock or Clock())
    routes_table.replace(1, {"m": list(routes)}, {})
    return routes_table


def taken(routes: RouteTable, times: int) -> list[str | None]:
    got = [routes.take("m") for _ in range(times)]
    return [one.group_id if one else None for one in got]


def test_the_preferred_route_is_filled_first() -> None:
    assert taken(table(route("a"), route("b", prefer=2)), 5) == ["b", "b", "a", "a", None]


def test_among_equals_the_least_loaded_is_taken() -> None:
    assert taken(table(route("a", capacity=None), route("b", capacity=None)), 4) == ["a", "b", "a", "b"]


def test_a_lost_route_is_passed_over_for_a_while() -> None:
    clock = Clock()
    bad = route("b", prefer=2)
    routes = table(route("a", capacity=None), bad, clock=clock)
    routes.mark_bad(bad)
    assert taken(routes, 1) == ["a"]
    clock.now += BAD_SECONDS
    assert taken(routes, 1) == ["b"]


def test_load_survives_a_change_of_the_routes() -> None:
    routes = table(route("a", capacity=1))
    first = routes.take("m")
    assert first is not None
    routes.replace(2, {"m": [route("a", capacity=1)]}, {})
    assert routes.take("m") is None
    assert routes.running("m") == {"a": 1}
    routes.give_back(first)
    assert routes.running("m") == {}
    assert routes.models_in_flight() == set()


def test_a_group_that_has_failed_a_request_is_its_last_choice() -> None:
    routes = table(route("a", capacity=1), route("b", prefer=2, capacity=1))
    first, second = routes.take("m", {"b"}), routes.take("m", {"b"})
    assert first is not None
    assert second is not None
    assert (first.group_id, second.group_id) == ("a", "b")


ENTRY = {"group_id": "g", "url": "http://h:1/", "api_key": "k", "state": "pipeline", "prefer": 1, "capacity": 8}


@pytest.mark.parametrize("document", ["[", "{}", "[1]", '[{"group_id": "g"}]', "null"] + [
    json.dumps([ENTRY | change]) for change in ({"url": None}, {"group_id": 5}, {"prefer": None}, {"capacity": "8"})
])  # fmt: skip
def test_routes_that_cannot_be_read_raise_what_the_reader_catches(document: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse_routes("m", document.encode())


def test_a_route_is_read() -> None:
    (one,) = parse_routes("m", json.dumps([ENTRY]).encode())
    assert (one.url, one.capacity, one.cold_start_id) == ("http://h:1", 8, None)


def hold(routes: RouteTable, **limits: Any) -> Hold:
    merged = {"max_requests": 10, "max_bytes": 1000, "deadline_s": 5} | limits
    return Hold(routes, lambda: HoldLimits(**merged))


def waiter(tenant: str = "t1", size: int = 1, arrived: int = 0) -> Waiter:
    return Waiter("m", tenant, size, arrived)


async def test_turns_between_tenants_and_order_within_one() -> None:
    routes = table()
    line = hold(routes)
    order = ["a", "a", "a", "b", "c", "b"]
    waiters = [waiter(tenant) for tenant in order]
    for one in waiters:
        line.enter(one)
    served = []
    for number in range(6):
        routes.replace(number, {"m": [route("g", capacity=number + 1)]}, {})
        line.wake_all()
        served += [number for number, one in enumerate(waiters) if one.ready.done() and number not in served]
    assert served == [0, 3, 4, 1, 5, 2]
    assert (line.count, line.bytes) == (0, 0)


async def test_nobody_overtakes_the_line() -> None:
    routes = table()
    line = hold(routes)
    line.enter(waiter())
    routes.replace(2, {"m": [route("g")]}, {})
    assert line.take("m") is None
    line.wake_all()
    assert line.take("m") is not None


async def test_a_route_given_to_somebody_who_left_goes_to_the_next() -> None:
    routes = table()
    line = hold(routes)
    first, second = waiter(), waiter()
    line.enter(first)
    line.enter(second)
    routes.replace(2, {"m": [route("g", capacity=1)]}, {})
    line.wake_all()
    assert first.ready.done()
    line.leave(first)
    assert second.claim().group_id == "g"
    line.leave(second)
    assert routes.running("m") == {"g": 1}


async def test_leaving_frees_the_place_in_line() -> None:
    line = hold(table(), max_requests=1, max_bytes=10)
    first = waiter(size=10)
    line.enter(first)
    with pytest.raises(ApiError):
        line.enter(waiter())
    line.leave(first)
    line.enter(waiter(size=10))
    assert (line.count, line.bytes) == (1, 10)


async def test_the_greediest_tenants_newest_gives_way() -> None:
    line = hold(table(), max_requests=3)
    greedy = [waiter("greedy", arrived=number) for number in range(3)]
    for one in greedy:
        line.enter(one)
    line.enter(waiter("modest"))
    assert [one.ready.done() for one in greedy] == [False, False, True]
    with pytest.raises(ApiError) as caught:
        greedy[2].claim()
    assert caught.value.status == 429
    # Two each would be no fairer than two and one.
    with pytest.raises(ApiError) as caught:
        line.enter(waiter("modest"))
    assert caught.value.status == 503


async def test_one_request_larger_than_the_hold_is_refused_without_emptying_it() -> None:
    line = hold(table(), max_bytes=10)
    for number in range(5):
        line.enter(waiter("other", arrived=number))
    with pytest.raises(ApiError):
        line.enter(waiter("big", size=11))
    assert line.count == 5


async def test_nobody_is_sent_away_for_a_request_that_would_not_fit_anyway() -> None:
    line = hold(table(), max_bytes=10)
    for number in range(5):
        line.enter(waiter("greedy", size=2, arrived=number))
    with pytest.raises(ApiError):
        line.enter(waiter("modest", size=6))
    assert line.count == 5
    line.enter(waiter("modest", size=3))
    assert (line.count, line.bytes) == (4, 9)


async def test_only_a_failure_after_the_arrival_ends_a_wait() -> None:
    routes = table()
    line = hold(routes)
    early, late = waiter(arrived=10), waiter(arrived=30)
    line.enter(early)
    line.enter(late)
    routes.replace(2, {}, {"m": ColdStart("c", "failed", None, "corrupt file", 20)})
    line.wake_all()
    with pytest.raises(ApiError, match="could not be started"):
        early.claim()
    assert not late.ready.done()
    assert line.waiting("m") == (1, {"standard": 30})
    line.leave(late)
    await asyncio.sleep(0)
