"""Quota leased in slices: a busy key's requests seldom ask Redis, and limits and sums are as exact as if they did."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.exceptions import TimeoutError as RedisTimeout
from support.fake_worker import PROMPT_TOKENS, FakeWorker
from support.gateway_process import KEY, PEPPER, RunningGateway, World, key_entry, route_entry, until
from support.redis_server import RedisServer

from gateway.accounting.admission import Admitted, Ahead
from gateway.accounting.attempts import Attempt
from gateway.readmodel.snapshot import hash_key

CHAT = "/v1/chat/completions"
CLIENTS = 16
PLENTY = 10_000_000


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices as large as they get, however slow the machine is."""
    monkeypatch.setattr("gateway.accounting.leases.AHEAD_S", 1.0)
    monkeypatch.setattr("gateway.accounting.leases.PACE_S", 0.02)


class Watched:
    """The admission of a gateway: what it was asked for, and with `unheard` its answers are lost."""

    def __init__(self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        admission = gateway.app._leases._admission
        self._real = admission.admit
        self.calls, self.ahead, self.unheard = 0, 0, False
        self.lost: list[Ahead] = []
        monkeypatch.setattr(admission, "admit", self._admit)

    async def _admit(self, attempt: Attempt, ahead: Ahead | None = None) -> Admitted:
        self.calls += 1
        admitted = await self._real(attempt, ahead)
        self.ahead += admitted.ahead
        if self.unheard and ahead is not None:
            self.lost.append(ahead)
            raise RedisTimeout("the answer was lost")
        return admitted


@pytest.fixture
def watched(cold_gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(cold_gateway, monkeypatch)


async def limit(world: World, worker: FakeWorker, **limits: int) -> None:
    world.keys[hash_key(KEY, PEPPER)] = key_entry(**limits)
    await world.route("small", route_entry(worker.url, capacity=PLENTY))
    await world.applied()


async def ask(
    client: aiohttp.ClientSession, question: dict[str, Any], count: int, until_: Any = lambda: False
) -> Counter[int]:
    """The statuses of so many requests by `CLIENTS` at a time; fewer when `until_` says so."""
    left, statuses = count, Counter[int]()

    async def one_after_the_other() -> None:
        nonlocal left
        while left > 0 and not until_():
            left -= 1
            async with client.post(CHAT, json=question) as answer:
                await answer.read()
                statuses[answer.status] += 1

    await asyncio.gather(*(one_after_the_other() for _ in range(CLIENTS)))
    return statuses


async def counted(world: World, kind: str) -> list[int]:
    """What each minute's counter of the key says, of requests (r) or tokens (t)."""
    return [int(await world.redis.get(name)) async for name in world.redis.scan_iter(f"hyd:rate:key:key_1:{kind}:*")]


async def holds_slots(world: World, count: int) -> bool:
    return bool(await world.redis.zcard("hyd:slots:key:key_1") == count)


async def test_a_busy_key_seldom_asks_redis_and_all_is_counted(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, watched: Watched,
    question: dict[str, Any],
) -> None:  # fmt: skip
    await limit(world, worker, rpm=PLENTY, tpm=PLENTY, parallel=PLENTY)
    statuses = await ask(client, question, 3000, lambda: watched.ahead > 200)
    served = statuses[200]
    assert statuses == {200: served}
    assert watched.ahead > 200
    assert watched.calls < served
    events = await world.until_events(served)
    assert len({event["attempt_id"] for event in events}) == len({event["request_id"] for event in events}) == served
    await world.released()
    await until(lambda: holds_slots(world, 0))
    # What no request has taken was given back, too: of requests as of tokens.
    assert sum(await counted(world, "r")) == served
    assert sum(await counted(world, "t")) == served * (PROMPT_TOKENS + 3)
    assert all("outcome" in json.loads(attempt) for attempt in await world.redis.hvals("hyd:attempts"))


async def test_the_last_request_within_a_limit_is_served_and_none_beyond_it(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, watched: Watched,
    question: dict[str, Any],
) -> None:  # fmt: skip
    allowed = 600
    await limit(world, worker, rpm=allowed)
    statuses = await ask(client, question, allowed + 100)
    assert watched.ahead > 0
    # Redis counts by its own minutes: one may turn over meanwhile.
    minutes = await counted(world, "r")
    assert max(minutes) <= allowed
    assert statuses[200] == sum(minutes)
    assert statuses[200] == allowed or len(minutes) == 2
    assert statuses[429] == allowed + 100 - statuses[200]


async def test_near_a_limit_nothing_is_admitted_ahead(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, watched: Watched,
    question: dict[str, Any],
) -> None:  # fmt: skip
    await limit(world, worker, parallel=64 + CLIENTS)
    await ask(client, question, 400)
    assert watched.ahead > 0
    watched.ahead = 0
    await limit(world, worker, parallel=64)
    await ask(client, question, 400)
    assert watched.ahead == 0


async def test_headers_tell_what_is_left_whoever_admits(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, watched: Watched,
    question: dict[str, Any],
) -> None:  # fmt: skip
    await limit(world, worker, rpm=PLENTY, tpm=PLENTY)
    await ask(client, question, 3000, lambda: watched.ahead > 0)
    before, lefts = watched.calls, []
    for _ in range(5):
        async with client.post(CHAT, json=question) as answer:
            lefts.append(int(answer.headers["x-ratelimit-remaining-requests"]))
            assert int(answer.headers["x-ratelimit-remaining-tokens"]) < PLENTY
            assert 0 <= int(answer.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    assert watched.calls < before + 5
    # A new minute begins with all of it.
    assert lefts == sorted(lefts, reverse=True) or max(lefts) > PLENTY - 100


async def test_what_redis_admitted_ahead_in_an_answer_that_was_lost_is_given_back(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, watched: Watched,
    question: dict[str, Any],
) -> None:  # fmt: skip
    await limit(world, worker, rpm=PLENTY, tpm=PLENTY, parallel=PLENTY)
    watched.unheard = True
    statuses = await ask(client, question, 3000, lambda: watched.lost)
    assert watched.lost
    assert set(statuses) <= {200, 503}
    await world.until_events(statuses[200])
    await world.released()
    await until(lambda: holds_slots(world, 0))
    # The request itself keeps its place in the minute: it was admitted.
    assert sum(await counted(world, "r")) == statuses.total()
    assert all("outcome" in json.loads(attempt) for attempt in await world.redis.hvals("hyd:attempts"))


async def test_other_limits_end_what_was_admitted_by_the_old_ones(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, watched: Watched,
    question: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("gateway.accounting.leases.KEEP_S", 30.0)
    await limit(world, worker, rpm=PLENTY)
    await ask(client, question, 3000, lambda: watched.ahead > 0)
    assert len(gateway.app._leases._supplies) == 1
    calls = watched.calls
    await limit(world, worker, rpm=1)
    async with client.post(CHAT, json=question) as answer:
        assert answer.status == 429
    assert watched.calls == calls + 1
    await world.released()


async def test_a_gateway_that_stops_keeps_nothing(
    world: World, redis_server: RedisServer, worker: FakeWorker, tmp_path: Path, question: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("gateway.accounting.leases.KEEP_S", 30.0)
    gateway = await RunningGateway(redis_server.url, tmp_path).start()
    watched = Watched(gateway, monkeypatch)
    await limit(world, worker, parallel=PLENTY)
    async with aiohttp.ClientSession(gateway.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        statuses = await ask(client, question, 3000, lambda: watched.ahead > 0)
    await until(lambda: world.redis.zcard("hyd:slots:key:key_1"))
    await gateway.stop()
    assert len(await world.events()) == statuses[200]
    await world.released()
    assert await world.redis.zcard("hyd:slots:key:key_1") == 0
