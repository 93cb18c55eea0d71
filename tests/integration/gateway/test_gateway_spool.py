"""How long a usage event stays on the gateway's disk: until Redis cannot lose it any more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, RunningGateway, World, route_entry, until
from support.redis_server import RedisServer

CHAT = "/v1/chat/completions"


def spooled(gateway: RunningGateway) -> list[str]:
    """The attempts whose events lie on disk."""
    lines = [line for path in gateway.settings.spool_dir.glob("*.jsonl") for line in path.read_bytes().splitlines()]
    return [json.loads(line)["event"]["attempt_id"] for line in lines]


async def ask(gateway: RunningGateway, question: dict[str, Any]) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(gateway.url) as client,
        client.post(CHAT, json=question, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()


@pytest_asyncio.fixture
async def durable(
    durable_redis_server: RedisServer, worker: FakeWorker, tmp_path: Path
) -> AsyncIterator[tuple[RunningGateway, World]]:
    """A gateway whose Redis has AOF."""
    world = World(durable_redis_server.url)
    await world.publish()
    await world.route("small", route_entry(worker.url))
    gateway = await RunningGateway(durable_redis_server.url, tmp_path).start()
    yield gateway, world
    await gateway.stop()
    await world.redis.aclose()


async def test_with_aof_a_published_event_leaves_the_disk(
    durable: tuple[RunningGateway, World], question: dict[str, Any]
) -> None:
    gateway, world = durable
    await ask(gateway, question)
    assert len(await world.until_events(1)) == 1
    await until(lambda: spooled(gateway) == [])
    assert await world.redis.hlen("hyd:attempts") == 1


async def test_without_aof_an_event_stays_until_the_ledger_has_closed_its_attempt(
    gateway: RunningGateway, world: World, question: dict[str, Any]
) -> None:
    await ask(gateway, question)
    await ask(gateway, question)
    first, second = [event["attempt_id"] for event in await world.until_events(2)]
    await gateway.app._metering.confirm()
    assert set(spooled(gateway)) == {first, second}
    await world.redis.hdel("hyd:attempts", first, second)
    await until(lambda: spooled(gateway) == [])


async def test_what_a_redis_without_aof_forgot_is_published_again(
    gateway: RunningGateway, world: World, redis_server: RedisServer, question: dict[str, Any]
) -> None:
    await ask(gateway, question)
    (event,) = await world.until_events(1)
    redis_server.kill()
    redis_server.start()
    await world.redis.connection_pool.disconnect()  # of the server that was killed
    assert await world.until_events(1) == [event]
