"""Two gateways on one Redis: what each admits counts for both, and what is revoked stops on both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, OTHER_KEY, PEPPER, PRICE, RunningGateway, World, route_entry, until
from support.redis_server import RedisServer

from gateway.body.parsing import TEMPLATE_TOKENS
from gateway.readmodel.snapshot import hash_key

CHAT = "/v1/chat/completions"
CLIENTS = 64
Pair = tuple[aiohttp.ClientSession, aiohttp.ClientSession]


@pytest_asyncio.fixture
async def pair(
    world: World, redis_server: RedisServer, worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pair]:
    """A client of each of two gateways, which follow the registry's messages only: the slow refresh is away."""
    monkeypatch.setattr("gateway.readmodel.readmodel.REFRESH_SECONDS", 3600.0)
    await world.route("small", route_entry(worker.url, capacity=100))
    gateways = [await RunningGateway(redis_server.url, tmp_path / name).start() for name in ("a", "b")]

    async def both_beat() -> bool:
        return await world.redis.hlen("hyd:gateways") == 2

    await until(both_beat)
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(gateways[0].url, headers=headers) as one,
        aiohttp.ClientSession(gateways[1].url, headers=headers) as other,
    ):
        yield one, other
    for gateway in gateways:
        await gateway.stop()


async def race(pair: Pair, worker: FakeWorker, question: dict[str, Any], served: int) -> list[tuple[int, str | None]]:
    """(status, code) of each of 64 clients that ask at once, half of them each gateway, while none is answered."""

    async def ask(number: int) -> tuple[int, str | None]:
        async with pair[number % 2].post(CHAT, json=question) as answer:
            return answer.status, (await answer.json()).get("error", {}).get("code")

    worker.gate = asyncio.Event()
    racing = [asyncio.create_task(ask(number)) for number in range(CLIENTS)]
    await until(lambda: sum(task.done() for task in racing) == CLIENTS - served)
    await until(lambda: worker.active == served)
    worker.gate.set()
    return sorted(await asyncio.gather(*racing), key=lambda pair: pair[0])


async def test_a_budget_is_spent_to_the_last_affordable_request(
    pair: Pair, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    prompt = len(json.dumps(question)) + TEMPLATE_TOKENS
    # More than one gateway's clients: both are served, however their calls to Redis come in batches.
    most = prompt * PRICE["input_nusd"] + 3 * PRICE["output_nusd"] + PRICE["request_nusd"]
    await world.redis.hset("hyd:balance", "ten_1", most * 40 + most - 1)
    answers = await race(pair, worker, question, 40)
    assert answers == [(200, None)] * 40 + [(429, "insufficient_quota")] * (CLIENTS - 40)
    events = await world.until_events(40)
    assert len({event["gateway_id"] for event in events}) == 2
    await world.released()


async def test_parallel_requests_are_counted_together(
    pair: Pair, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    world.keys[hash_key(KEY, PEPPER)]["parallel"] = 7
    await world.applied()
    answers = await race(pair, worker, question, 7)
    assert answers == [(200, None)] * 7 + [(429, "rate_limit_exceeded")] * (CLIENTS - 7)
    assert worker.most_active == 7


async def test_requests_per_minute_are_counted_together(
    pair: Pair, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    world.keys[hash_key(KEY, PEPPER)]["rpm"] = 5
    await world.applied()

    async def ask(number: int) -> int:
        async with pair[number % 2].post(CHAT, json=question) as answer:
            return answer.status

    statuses = await asyncio.gather(*(ask(number) for number in range(CLIENTS)))
    # Redis counts by its own minutes: a minute may turn over while they race, then up to five fit into each.
    windows = [int(await world.redis.get(key)) async for key in world.redis.scan_iter("hyd:rate:key:key_1:r:*")]
    assert windows == [5] or (len(windows) == 2 and max(windows) <= 5)
    assert statuses.count(200) == sum(windows)
    assert statuses.count(429) == CLIENTS - sum(windows)


async def test_a_revoked_key_stops_on_both_by_the_registrys_message_alone(
    pair: Pair, world: World, question: dict[str, Any]
) -> None:
    for client in pair:
        async with client.post(CHAT, json=question) as answer:
            assert answer.status == 200
    del world.keys[hash_key(KEY, PEPPER)]
    await world.publish()

    async def refused() -> bool:
        statuses = []
        for client in pair:
            async with client.post(CHAT, json=question) as answer:
                statuses.append(answer.status)
        return statuses == [401, 401]

    # Architecture.md: within a second of the publication. The refresh that would find it otherwise is an hour away.
    await until(refused, seconds=1.0)
    for client in pair:
        async with client.post(CHAT, json=question, headers={"authorization": f"Bearer {OTHER_KEY}"}) as answer:
            assert answer.status == 200
