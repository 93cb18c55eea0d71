"""Workers that die and clients that leave: retried while nothing was sent, billed for what was delivered."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
from support.fake_worker import PROMPT_TOKENS, FakeWorker
from support.gateway_process import KEY, RunningGateway, World, route_entry, until
from support.redis_server import RedisServer

CHAT = "/v1/chat/completions"


async def test_a_request_for_a_dead_worker_waits_for_its_replacement(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, second: FakeWorker,
    question: dict[str, Any],
) -> None:  # fmt: skip
    await worker.stop()
    asking = asyncio.create_task(client.post(CHAT, json=question).__aenter__())

    async def holds() -> bool:
        entries = await world.redis.hvals("hyd:activity:small")
        return any(json.loads(entry)["waiting"] == 1 for entry in entries)

    await until(holds)
    await world.route("small", route_entry(second.url, "grp_2"))
    answer = await asking
    assert answer.status == 200
    await answer.read()


async def test_a_begun_stream_ends_with_an_error_and_is_billed_for_what_was_delivered(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, second: FakeWorker,
    question: dict[str, Any],
) -> None:  # fmt: skip
    worker.die_after = 2
    worker.token_delay = 0.02
    await world.route("small", route_entry(worker.url, prefer=2), route_entry(second.url, "grp_2"))
    await world.until_read()
    async with client.post(CHAT, json=question | {"stream": True, "max_tokens": 9}) as answer:
        frames = (await answer.read()).decode().strip().split("\n\n")
    assert json.loads(frames[-1].removeprefix("data: "))["error"]["code"] == "worker_failed"
    assert "[DONE]" not in "".join(frames)
    assert second.requests == []
    (event,) = await world.until_events(1)
    assert (event["outcome"], event["prompt_tokens"], event["completion_tokens"]) == (
        "upstream_error",
        PROMPT_TOKENS,
        2,
    )
    await world.released()


async def test_a_client_that_leaves_a_stream_pays_for_what_it_got_and_the_worker_stops(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.token_delay = 0.05
    async with client.post(CHAT, json=question | {"stream": True, "max_tokens": 1000}) as answer:
        async for line in answer.content:
            if b"three" in line:
                break
        answer.close()
    (event,) = await world.until_events(1)
    assert event["outcome"] == "client_closed"
    assert 3 <= event["completion_tokens"] < 100
    assert event["prompt_tokens"] == PROMPT_TOKENS
    assert event["first_token_at_ms"] is not None
    await until(lambda: worker.active == 0)
    assert (worker.aborted, worker.completed) == (1, 0)
    await world.released()


async def test_a_client_that_leaves_a_plain_call_pays_nothing_and_the_worker_stops(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.gate = asyncio.Event()
    asking = asyncio.create_task(client.post(CHAT, json=question).__aenter__())
    await until(lambda: worker.active == 1)
    asking.cancel()
    (event,) = await world.until_events(1)
    assert (event["outcome"], event["reserved_nusd"]) == ("client_closed", 0)
    assert event["prompt_tokens"] == event["completion_tokens"] == 0
    await until(lambda: worker.active == 0)
    await world.released()


async def test_running_usage_is_checkpointed(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.token_delay = 0.05
    async with client.post(CHAT, json=question | {"stream": True, "max_tokens": 1000}) as answer:

        async def checkpointed() -> bool:
            attempts = [json.loads(text) for text in await world.redis.hvals("hyd:attempts")]
            return any(attempt["completion_tokens"] > 0 and attempt["group_id"] == "grp_1" for attempt in attempts)

        await until(checkpointed)
        beats = await world.redis.hvals("hyd:gateways")
        assert json.loads(beats[0])["at_ms"] > 0
        answer.close()


async def test_an_attempt_that_somebody_settled_is_not_written_again(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.gate = asyncio.Event()
    asking = asyncio.create_task(client.post(CHAT, json=question).__aenter__())
    await until(lambda: worker.active == 1)
    await world.redis.delete("hyd:attempts")
    await gateway.app._metering.checkpoint()
    assert await world.redis.exists("hyd:attempts") == 0
    worker.gate.set()
    answer = await asking
    assert answer.status == 200
    assert len(await world.until_events(1)) == 1


async def test_a_gateways_last_word_on_a_model_stays_but_not_for_ever(
    world: World, redis_server: RedisServer, tmp_path: Path, worker: FakeWorker, question: dict[str, Any]
) -> None:
    await world.redis.sadd("hyd:activity:models", "small")
    await world.redis.hset("hyd:activity:small", mapping={"gw_ancient": json.dumps({"at_ms": 1})})
    await world.route("small", route_entry(worker.url))
    gateway = await RunningGateway(redis_server.url, tmp_path).start()
    async with aiohttp.ClientSession(gateway.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        await until(lambda: _serves(client, question))
    await gateway.stop()
    entries = await world.redis.hgetall("hyd:activity:small")
    assert set(entries) == {gateway.app.gateway_id}
    entry = json.loads(entries[gateway.app.gateway_id])
    assert (entry["waiting"], entry["running"], entry["groups"]) == (0, 0, {})
    assert entry["last_request_at_ms"] > 0


async def _serves(client: aiohttp.ClientSession, question: dict[str, Any]) -> bool:
    async with client.post(CHAT, json=question) as answer:
        return answer.status == 200


async def test_a_stopping_gateway_lets_streams_end_and_sends_waiters_away(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.token_delay = 0.1
    async with client.post(CHAT, json=question | {"stream": True, "max_tokens": 6}) as answer:
        await answer.content.readuntil(b"\n\n")
        stopping = asyncio.create_task(gateway.stop())
        assert b"[DONE]" in await answer.read()
    await stopping
    (event,) = await world.events()
    assert (event["outcome"], event["completion_tokens"]) == ("ok", 6)
    assert await world.redis.hlen("hyd:gateways") == 0


async def test_a_stopping_gateway_answers_held_requests(
    cold_gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    asking = asyncio.create_task(client.post(CHAT, json=question).__aenter__())
    await until(lambda: world.reserved())
    await cold_gateway.stop()
    answer = await asking
    assert answer.status == 503
    assert (await answer.json())["error"]["code"] == "gateway_restarting"
    assert await world.reserved() == 0
