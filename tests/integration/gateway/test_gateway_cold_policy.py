"""What becomes of requests for a cold model by policy: a real gateway and hosted process, a fake worker, a stand-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio
from support.fake_provider import CACHED, PROMPT, FakeProvider
from support.fake_worker import FakeWorker
from support.gateway_process import (
    KEY,
    OTHER_KEY,
    PEPPER,
    RunningGateway,
    World,
    key_entry,
    model_entry,
    route_entry,
    until,
)
from support.hosted_process import hosted_url
from support.redis_server import RedisServer

from gateway.clock import now_ms
from gateway.readmodel.snapshot import hash_key

__all__ = ["hosted_url"]

CHAT = "/v1/chat/completions"
DEAR = {"price_id": "prc_h", "input_nusd": 100, "cached_input_nusd": 50, "output_nusd": 400, "request_nusd": 7}
COST = (PROMPT - CACHED) * 100 + CACHED * 50 + 3 * 400 + 7


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    fake = await FakeProvider().start()
    yield fake
    await fake.stop()


@pytest_asyncio.fixture
async def gateway(
    world: World, redis_server: RedisServer, hosted_url: str, provider: FakeProvider, tmp_path: Path
) -> AsyncIterator[RunningGateway]:
    served = {"model": "openai/gpt-4.1-mini", "api_base": provider.url, "key_env": "STAND_IN_API_KEY"}
    world.models["gpt"] = model_entry(
        lane="hosted", model_id="mod_h", provider=served, price=DEAR, context_length=100_000
    )
    world.keys[hash_key(KEY, PEPPER)] = key_entry(models=["small"])
    gateway = await RunningGateway(redis_server.url, tmp_path, hosted_url=hosted_url).start()
    yield gateway
    await gateway.stop()


@pytest_asyncio.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(gateway.url, headers={"authorization": f"Bearer {KEY}"}) as session:
        yield session


async def policy(world: World, mode: str, *, after_s: int = 0, tenant: str = "*") -> None:
    document = {"mode": mode, "after_s": after_s, "fallback": "gpt" if mode == "fallback" else None}
    world.policies = {"small": {tenant: document}}
    await world.applied()


async def waiting(world: World) -> int:
    return sum(json.loads(entry)["waiting"] for entry in await world.redis.hvals("hyd:activity:small"))


async def failed_start(world: World) -> None:
    start = {"cold_start_id": None, "state": "failed", "eta_ms": None, "error": "no", "failed_at_ms": now_ms() + 5000}
    await world.redis.hset("hyd:coldstart", "small", json.dumps(start))
    await world.applied()


async def test_a_fallback_answers_at_once_at_its_own_price_and_the_model_starts(
    client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    await policy(world, "fallback")
    async with client.post(CHAT, json=question) as answer:
        document = await answer.json()
        assert (answer.status, answer.headers["x-hydrant-served-by"], document["model"]) == (200, "gpt", "gpt")
    [event] = await world.until_events(1)
    assert (event["model"], event["model_id"], event["price_id"]) == ("gpt", "mod_h", "prc_h")
    assert (event["lane"], event["reserved_nusd"]) == ("hosted", COST)
    await until(lambda: _is(world, 1))
    assert await world.redis.llen("control") == 1


async def _is(world: World, count: int) -> bool:
    return await waiting(world) == count


async def test_the_demand_ends_when_the_model_serves(
    client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    await policy(world, "fallback")
    async with client.post(CHAT, json=question) as answer:
        assert answer.headers["x-hydrant-served-by"] == "gpt"
    await world.route("small", route_entry(worker.url))
    await until(lambda: _is(world, 0))
    async with client.post(CHAT, json=question) as answer:
        assert (answer.status, (await answer.json())["model"]) == (200, "small")
        assert "x-hydrant-served-by" not in answer.headers
    second = (await world.until_events(2))[1]
    assert (second["model"], second["price_id"]) == ("small", "prc_1")


async def test_a_text_prompt_is_answered_by_the_fallback_and_vectors_never_are(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider
) -> None:
    world.models["vectors"] = model_entry(model_id="mod_3", embedding=True)
    world.keys[hash_key(KEY, PEPPER)] = key_entry(models=["small", "vectors"])
    world.hold["deadline_s"] = 0.2
    await policy(world, "fallback")
    async with client.post("/v1/completions", json={"model": "small", "prompt": "Count", "max_tokens": 3}) as answer:
        document = await answer.json()
        assert (answer.status, answer.headers["x-hydrant-served-by"], document["model"]) == (200, "gpt", "gpt")
        assert document["choices"][0]["text"] == "one two three"
    world.policies["vectors"] = world.policies["small"]
    await world.applied()
    async with client.post("/v1/embeddings", json={"model": "vectors", "input": "x"}) as answer:
        assert answer.status == 504
    assert len(provider.requests) == 1


async def test_a_fallback_after_a_second_streams_after_pings(
    client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    await policy(world, "fallback", after_s=1)
    async with client.post(CHAT, json=question | {"stream": True}) as answer:
        events = await answer.read()
    assert events.startswith(b": waiting\n\n")
    assert b'"model":"gpt"' in events
    assert events.endswith(b"data: [DONE]\n\n")
    [event] = await world.until_events(1)
    assert event["held_ms"] >= 900
    assert event["price_id"] == "prc_h"


async def test_a_model_that_is_ready_before_the_moment_answers_itself(
    client: aiohttp.ClientSession, world: World, worker: FakeWorker, provider: FakeProvider, question: dict[str, Any]
) -> None:
    await policy(world, "fallback", after_s=20)
    asking = asyncio.create_task(client.post(CHAT, json=question))
    await until(lambda: _is(world, 1))
    await world.route("small", route_entry(worker.url))
    async with await asking as answer:
        assert (await answer.json())["model"] == "small"
    assert provider.requests == []


async def test_a_fallback_that_fails_leaves_the_request_waiting(
    client: aiohttp.ClientSession, world: World, worker: FakeWorker, provider: FakeProvider, question: dict[str, Any]
) -> None:
    provider.refuse = (500, {"error": {"message": "oops"}}, {})
    await policy(world, "fallback")
    asking = asyncio.create_task(client.post(CHAT, json=question))
    await until(lambda: bool(provider.requests))
    await world.route("small", route_entry(worker.url))
    async with await asking as answer:
        assert (answer.status, (await answer.json())["model"]) == (200, "small")
        assert "x-hydrant-served-by" not in answer.headers
    events = await world.until_events(2)
    assert [(e["model"], e["outcome"], e["price_id"]) for e in events] == [
        ("gpt", "upstream_error", "prc_h"),
        ("small", "ok", "prc_1"),
    ]
    assert events[0]["reserved_nusd"] == 0
    await world.released()


async def test_a_start_that_failed_falls_back(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, question: dict[str, Any]
) -> None:
    await policy(world, "fallback", after_s=25)
    asking = asyncio.create_task(client.post(CHAT, json=question))
    await until(lambda: _is(world, 1))
    await failed_start(world)
    async with await asking as answer:
        assert (answer.status, answer.headers["x-hydrant-served-by"]) == (200, "gpt")


async def test_the_reservation_covers_the_dearer_model(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, question: dict[str, Any]
) -> None:
    await policy(world, "fallback")
    # Enough for `small`, and not for what the fallback may cost.
    await world.redis.hset("hyd:balance", "ten_1", 20_000)
    async with client.post(CHAT, json=question) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (429, "insufficient_quota")
    assert provider.requests == []


async def test_a_reject_is_honest_and_starts_the_model(
    client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    await policy(world, "reject")
    start = {"cold_start_id": "cst_9", "state": "starting", "eta_ms": now_ms() + 42_000, "error": None}
    await world.redis.hset("hyd:coldstart", "small", json.dumps(start))
    await world.applied()
    async with client.post(CHAT, json=question) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "model_cold")
        assert 35 <= int(answer.headers["retry-after"]) <= 42
    await until(lambda: _is(world, 1))
    await world.released()
    await world.route("small", route_entry(worker.url))
    await until(lambda: _is(world, 0))
    async with client.post(CHAT, json=question) as answer:
        assert answer.status == 200


async def test_a_policy_is_one_tenants_own(
    gateway: RunningGateway, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    await policy(world, "reject", tenant="ten_1")
    async with aiohttp.ClientSession(gateway.url, headers={"authorization": f"Bearer {OTHER_KEY}"}) as other:
        asking = asyncio.create_task(other.post(CHAT, json=question))
        await until(lambda: _is(world, 1))
        mine = {"authorization": f"Bearer {KEY}"}
        async with other.post(CHAT, json=question, headers=mine) as answer:
            assert answer.status == 503
        await world.route("small", route_entry(worker.url))
        async with await asking as answer:
            assert answer.status == 200
