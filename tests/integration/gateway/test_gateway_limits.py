"""Limits and budgets: never exceeded however requests race, never unlimited when Redis is away, always given back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from support.fake_worker import PROMPT_TOKENS, FakeWorker
from support.gateway_process import (
    KEY,
    OTHER_KEY,
    PEPPER,
    PRICE,
    RunningGateway,
    World,
    model_entry,
    route_entry,
    tenant_entry,
    until,
)
from support.redis_server import RedisServer

from gateway.accounting.admission import SLOT_LIFE_MS
from gateway.body.parsing import TEMPLATE_TOKENS
from gateway.readmodel.snapshot import hash_key

CHAT = "/v1/chat/completions"


async def post(
    client: aiohttp.ClientSession, body: dict[str, Any], headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """(status, document, headers) of a plain chat request."""
    async with client.post(CHAT, json=body, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


def reservation(body: dict[str, Any]) -> int:
    """The most that a chat body can cost, in nano-dollars."""
    prompt = len(json.dumps(body)) + TEMPLATE_TOKENS
    return prompt * PRICE["input_nusd"] + body["max_tokens"] * PRICE["output_nusd"] + PRICE["request_nusd"]


async def test_racing_clients_spend_exactly_what_the_balance_covers(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    affordable = 9
    await world.redis.hset("hyd:balance", "ten_1", reservation(question) * affordable + 1)
    await world.route("small")
    await world.route("small", _unbounded(worker))
    worker.gate = asyncio.Event()
    racing = [asyncio.create_task(post(client, question)) for _ in range(64)]
    await until(lambda: sum(task.done() for task in racing) == 64 - affordable)
    assert await world.reserved() == reservation(question) * affordable
    worker.gate.set()
    answers = await asyncio.gather(*racing)
    assert sorted(status for status, _, _ in answers) == [200] * affordable + [429] * (64 - affordable)
    assert {document["error"]["code"] for status, document, _ in answers if status == 429} == {"insufficient_quota"}
    events = await world.until_events(affordable)
    cost = PROMPT_TOKENS * PRICE["input_nusd"] + 3 * PRICE["output_nusd"] + PRICE["request_nusd"]
    assert [event["reserved_nusd"] for event in events] == [cost] * affordable
    assert await world.reserved() == cost * affordable


async def test_a_short_balance_is_told_with_limits_and_that_asking_again_is_of_no_use(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    world.tenants["ten_1"] = tenant_entry(rpm=100)
    await world.applied()
    await world.redis.hset("hyd:balance", "ten_1", 1)
    status, document, headers = await post(client, question)
    assert (status, document["error"]["code"]) == (429, "insufficient_quota")
    assert headers["x-should-retry"] == "false"
    assert headers["x-ratelimit-limit-requests"] == "100"


async def test_requests_per_minute(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    world.keys[hash_key(KEY, PEPPER)]["rpm"] = 5
    world.tenants["ten_1"] = tenant_entry(rpm=100)
    await world.applied()
    answers = await asyncio.gather(*(post(client, question) for _ in range(12)))
    served = [headers for status, _, headers in answers if status == 200]
    refused = [(document, headers) for status, document, headers in answers if status == 429]
    # A minute may turn over while the twelve run: then five more fit into the next.
    assert len(served) in (5, 10)
    assert len(refused) == 12 - len(served)
    for document, headers in refused:
        assert document["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(headers["retry-after"]) <= 60
        assert headers["x-ratelimit-remaining-requests"] == "0"
    assert {headers["x-ratelimit-limit-requests"] for headers in served} == {"5"}


async def test_a_models_limits_hold_over_all_tenants_and_headers_tell_the_tightest(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    world.models["small"] = model_entry(parallel=3, rpm=100)
    world.tenants["ten_1"] = tenant_entry(rpm=1000)
    world.models["other"] = model_entry(model_id="mod_2")
    await world.route("other", _unbounded(worker))
    await world.applied()
    other = {"authorization": f"Bearer {OTHER_KEY}"}
    worker.gate = asyncio.Event()
    running = [asyncio.create_task(post(client, question)) for _ in range(2)]
    running.append(asyncio.create_task(post(client, question, other)))
    await until(lambda: worker.active == 3)
    status, document, headers = await post(client, question, other)
    assert (status, document["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "model's limit of parallel requests" in document["error"]["message"]
    assert headers["x-ratelimit-limit-requests"] == "100"
    running.append(asyncio.create_task(post(client, question | {"model": "other"})))
    await until(lambda: worker.active == 4)
    worker.gate.set()
    assert [status for status, _, _ in await asyncio.gather(*running)] == [200] * 4
    assert await world.redis.zcard("hyd:slots:model:mod_1") == 0
    # Nothing is counted where there is no limit.
    assert await world.redis.keys("hyd:*:key:*") == []


async def test_tokens_per_minute_are_counted_by_the_bound_and_corrected_by_the_truth(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    bound = len(json.dumps(question)) + TEMPLATE_TOKENS + 3
    world.tenants["ten_1"] = tenant_entry(tpm=bound + 50)
    await world.applied()
    for _ in range(3):
        status, document, headers = await post(client, question)
        assert status == 200, document
    assert headers["x-ratelimit-limit-tokens"] == str(bound + 50)
    # A minute may turn over meanwhile: then there are two counters.
    counters = [int(await world.redis.get(key)) async for key in world.redis.scan_iter("hyd:rate:tenant:ten_1:t:*")]
    assert sum(counters) == 3 * (PROMPT_TOKENS + 3)
    status, document, _ = await post(client, question | {"max_tokens": 2000})
    assert (status, document["error"]["param"]) == (400, "max_tokens")


async def test_parallel_slots_are_free_when_the_answer_is_there(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    world.keys[hash_key(KEY, PEPPER)]["parallel"] = 2
    await world.applied()
    for _ in range(5):
        assert (await post(client, question))[0] == 200
        async with client.post(CHAT, json=question | {"stream": True}) as answer:
            assert answer.status == 200
            await answer.read()
    worker.gate = asyncio.Event()
    running = [asyncio.create_task(post(client, question)) for _ in range(2)]
    await until(lambda: worker.active == 2)
    status, document, headers = await post(client, question)
    assert (status, document["error"]["code"]) == (429, "rate_limit_exceeded")
    assert headers["retry-after"] == "1"
    worker.gate.set()
    await asyncio.gather(*running)
    assert await world.redis.zcard("hyd:slots:key:key_1") == 0


async def test_slots_of_a_dead_gateway_expire_and_those_of_a_living_one_are_kept(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    world.keys[hash_key(KEY, PEPPER)]["parallel"] = 1
    await world.applied()
    seconds, micros = await world.redis.time()
    now_ms = seconds * 1000 + micros // 1000
    await world.redis.zadd("hyd:slots:key:key_1", {"att_dead": now_ms + SLOT_LIFE_MS})
    assert (await post(client, question))[0] == 429
    await world.redis.zadd("hyd:slots:key:key_1", {"att_dead": now_ms - 1})
    worker.gate = asyncio.Event()
    running = asyncio.create_task(post(client, question))
    await until(lambda: worker.active == 1)
    ((_, before),) = await world.redis.zrange("hyd:slots:key:key_1", 0, -1, withscores=True)

    async def renewed() -> bool:
        ((_, score),) = await world.redis.zrange("hyd:slots:key:key_1", 0, -1, withscores=True)
        return score > before

    await until(renewed)
    worker.gate.set()
    assert (await running)[0] == 200


async def test_without_redis_nothing_is_admitted_and_afterwards_everything_works(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, redis_server: RedisServer, worker: FakeWorker,
    question: dict[str, Any],
) -> None:  # fmt: skip
    redis_server.kill()
    status, document, headers = await post(client, question)
    assert (status, document["error"]["code"]) == (503, "admission_unavailable")
    assert int(headers["retry-after"]) > 0
    assert worker.requests == []
    redis_server.start()
    # Redis came back empty: no balance is known, so nothing is served, until it is rebuilt.
    await until(lambda: _status_is(client, question, 503, "balance_unknown"))
    await world.publish()
    await world.route("small", route_entry(worker.url))
    await until(lambda: _status_is(client, question, 200))


async def test_an_answer_that_ends_while_redis_is_away_is_billed_later(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, redis_server: RedisServer, worker: FakeWorker,
    question: dict[str, Any],
) -> None:  # fmt: skip
    worker.gate = asyncio.Event()
    running = asyncio.create_task(post(client, question))
    await until(lambda: worker.active == 1)
    redis_server.kill()
    worker.gate.set()
    assert (await running)[0] == 200
    (spool,) = gateway.settings.spool_dir.glob("*.jsonl")
    assert json.loads(spool.read_bytes())["event"]["outcome"] == "ok"
    redis_server.start()
    (event,) = await world.until_events(1)
    assert event["completion_tokens"] == 3
    # This Redis keeps nothing over a start, so the event stays in the spool until the ledger has closed the attempt.
    assert await world.redis.hkeys("hyd:attempts") == [event["attempt_id"]]
    assert spool.read_bytes() != b""
    await world.redis.hdel("hyd:attempts", event["attempt_id"])
    await until(lambda: spool.read_bytes() == b"")


async def test_events_of_a_killed_gateway_are_published_by_the_next(
    durable_redis_server: RedisServer, tmp_path: Any
) -> None:
    world = World(durable_redis_server.url)
    await world.publish()
    event = {"attempt_id": "att_1", "tenant_id": "ten_1", "key_id": "key_1", "reserved_nusd": 7, "outcome": "ok"}
    spool = tmp_path / "spool"
    spool.mkdir()
    line = json.dumps({"event": event, "window": 1, "surplus_tokens": 0}).encode()
    (spool / "gw_dead.jsonl").write_bytes(line + b"\n" + line[:20])
    gateway = await RunningGateway(durable_redis_server.url, tmp_path).start()
    assert await world.until_events(1) == [event]
    await gateway.stop()
    assert list(spool.iterdir()) == []
    await world.redis.aclose()


def _unbounded(worker: FakeWorker) -> dict[str, Any]:
    return route_entry(worker.url, capacity=100)


async def _status_is(client: aiohttp.ClientSession, body: dict[str, Any], status: int, code: str | None = None) -> bool:
    got, document, _ = await post(client, body)
    return got == status and (code is None or document["error"]["code"] == code)
