"""A rotated key on two gateways: both keys work until the old one ends, then the new one only. Clients of one
`Idempotency-Key` that come and go in any order get one answer for one bill."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, PEPPER, RunningGateway, World, key_entry, until
from support.redis_server import RedisServer

from gateway.readmodel.snapshot import hash_key

CHAT = "/v1/chat/completions"
NEW = "hyd-newnewne-" + "n" * 43


@pytest_asyncio.fixture
async def both(gateway: RunningGateway, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[list[str]]:
    """The addresses of two gateways with the same read model."""
    other = await RunningGateway(redis_server.url, tmp_path / "other").start()
    yield [gateway.url, other.url]
    await other.stop()


async def test_both_keys_work_until_the_old_ones_end_on_every_gateway(
    both: list[str], world: World, question: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, micros = await world.redis.time()
    end_ms = seconds * 1000 + micros // 1000 + 60_000
    world.keys[hash_key(KEY, PEPPER)]["expires_at_ms"] = end_ms
    world.keys[hash_key(NEW, PEPPER)] = key_entry("key_new")
    await world.applied()

    async def statuses(key: str) -> list[int]:
        found = []
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as client:
            for url in both:
                async with client.post(url + CHAT, json=question) as answer:
                    found.append(answer.status)
        return found

    assert await statuses(KEY) == await statuses(NEW) == [200, 200]
    monkeypatch.setattr("gateway.inference.now_ms", lambda: end_ms - 1)
    assert await statuses(KEY) == await statuses(NEW) == [200, 200]
    monkeypatch.setattr("gateway.inference.now_ms", lambda: end_ms)
    assert await statuses(KEY) == [401, 401]
    assert await statuses(NEW) == [200, 200]


@pytest.mark.parametrize("seed", range(3))
async def test_clients_that_join_and_leave_at_random_are_one_answer_and_one_bill(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any],
    seed: int,
) -> None:  # fmt: skip
    chance = random.Random(seed)
    worker.token_delay = 0.03
    body = question | {"stream": True, "max_tokens": 12}

    async def ask(patience_s: float | None) -> bytes:
        async with asyncio.timeout(patience_s):
            async with client.post(CHAT, json=body, headers={"idempotency-key": "order-7"}) as answer:
                return await answer.read()

    first = asyncio.create_task(ask(0.1))
    await until(lambda: worker.active == 1)
    asking = [first]
    for _ in range(20):
        asking.append(asyncio.create_task(ask(chance.choice([0.0, 0.01, 0.05, 0.1]))))
        await asyncio.sleep(chance.uniform(0, 0.005))
    asking.append(asyncio.create_task(ask(None)))
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(answer, bytes | TimeoutError) for answer in answers)
    assert isinstance(answers[0], TimeoutError)
    assert isinstance(answers[-1], bytes)
    assert answers[-1].endswith(b"data: [DONE]\n\n")
    assert b"twelve" in answers[-1]
    assert len(worker.requests) == 1
    (event,) = await world.until_events(1)
    assert (event["outcome"], event["completion_tokens"]) == ("ok", 12)
    await world.released()
    assert await world.redis.keys("hyd:idem:*") == []
