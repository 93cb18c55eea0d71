"""What goes wrong between gateway, hosted process and worker: who is charged with it, who is told, what is billed."""

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
from support.gateway_process import KEY, OTHER_KEY, RunningGateway, World, model_entry, route_entry, until
from support.hosted_process import HostedProcess, hosted_url, own_hosted
from support.redis_server import RedisServer

__all__ = ["hosted_url", "own_hosted"]

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
BODY = {"model": "small-lite", "max_tokens": 4, "messages": [{"role": "user", "content": "x"}]}
TOOL = {"name": "f", "description": "", "input_schema": {"type": "object"}}


@pytest_asyncio.fixture
async def lite_world(world: World, worker: FakeWorker) -> World:
    """`small-lite` runs on the worker through litellm, `small` runs on it directly."""
    world.models["small-lite"] = model_entry(lane="litellm", model_id="mod_2")
    await world.publish()
    for model in ("small", "small-lite"):
        await world.route(model, route_entry(worker.url))
    return world


@pytest_asyncio.fixture
async def lanes(
    lite_world: World, redis_server: RedisServer, hosted_url: str, tmp_path: Path
) -> AsyncIterator[RunningGateway]:
    gateway = await RunningGateway(redis_server.url, tmp_path, hosted_url=hosted_url).start()
    yield gateway
    await gateway.stop()


@pytest_asyncio.fixture
async def client(lanes: RunningGateway) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(lanes.url, headers={"authorization": f"Bearer {KEY}"}) as session:
        yield session


async def error_of(client: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """(status, code) of a refused OpenAI call, (status, type) of a refused Anthropic one."""
    async with client.post(path, json=body) as answer:
        document = await answer.json()
        assert "error" in document, document
    if path == MESSAGES:
        assert document["type"] == "error"
        return answer.status, document["error"]["type"]
    return answer.status, document["error"]["code"]


async def serves_others_at_once(client: aiohttp.ClientSession, world: World) -> None:
    """The worker is not passed over: another tenant gets it without any wait."""
    world.hold["deadline_s"] = 0
    await world.applied()
    headers = {"authorization": f"Bearer {OTHER_KEY}"}
    async with client.post(CHAT, json=BODY | {"model": "small"}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()


async def nothing_billed(world: World) -> None:
    """Every attempt has ended, and none of them costs anything."""
    await world.released()
    assert await world.reserved() == 0
    assert all(event["completion_tokens"] == 0 for event in await world.events())


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_an_aborted_answer_is_not_finished_and_not_billed(
    client: aiohttp.ClientSession, lite_world: World, worker: FakeWorker, path: str
) -> None:
    def abort(document: dict[str, Any]) -> None:
        document["choices"][0]["finish_reason"] = "abort"

    worker.alter = abort
    assert (await error_of(client, path, BODY))[0] == 502
    assert len(worker.requests) == 3
    await nothing_billed(lite_world)
    worker.alter = None
    await serves_others_at_once(client, lite_world)


async def test_an_answer_that_cannot_be_translated_is_nobodys_lost_worker(
    client: aiohttp.ClientSession, lite_world: World, worker: FakeWorker
) -> None:
    def broken_call(document: dict[str, Any]) -> None:
        function = {"name": "f", "arguments": "no JSON at all"}
        call = {"id": "c1", "type": "function", "index": 0, "function": function}
        document["choices"][0] |= {
            "message": {"role": "assistant", "content": None, "tool_calls": [call]},
            "finish_reason": "tool_calls",
        }

    worker.alter = broken_call
    assert await error_of(client, MESSAGES, BODY | {"tools": [TOOL]}) == (502, "api_error")
    assert len(worker.requests) == 1
    await nothing_billed(lite_world)
    worker.alter = None
    await serves_others_at_once(client, lite_world)


async def test_a_worker_that_only_breaks_off_is_tried_a_bounded_number_of_times(
    client: aiohttp.ClientSession, lite_world: World, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Passed over for no time at all, so that the tries follow each other.
    monkeypatch.setattr("gateway.readmodel.routes.BAD_SECONDS", 0.0)
    worker.die_after = -1
    assert await error_of(client, CHAT, BODY) == (502, "worker_failed")
    assert len(worker.requests) == 3
    await nothing_billed(lite_world)


async def test_a_worker_that_cannot_be_reached_is_waited_for(
    client: aiohttp.ClientSession, lite_world: World, worker: FakeWorker, second: FakeWorker
) -> None:
    await worker.stop()
    asking = asyncio.create_task(client.post(CHAT, json=BODY).__aenter__())

    async def holds() -> bool:
        entries = await lite_world.redis.hvals("hyd:activity:small-lite")
        return any(json.loads(entry)["waiting"] == 1 for entry in entries)

    await until(holds)
    await lite_world.route("small-lite", route_entry(second.url, "grp_2"))
    answer = await asking
    assert answer.status == 200
    await answer.read()


@pytest.mark.parametrize("die", [True, False])
async def test_a_messages_stream_that_breaks_off_ends_with_anthropics_error(
    client: aiohttp.ClientSession, lite_world: World, worker: FakeWorker, die: bool
) -> None:
    worker.token_delay = 0.05
    if die:
        worker.die_after = 2
    else:
        worker.end_after = 2
    async with client.post(MESSAGES, json=BODY | {"stream": True}) as answer:
        events = (await answer.text()).strip().split("\n\n")
    assert events[-1].startswith("event: error\ndata: ")
    assert all(event.startswith("event: ") for event in events)
    assert "message_stop" not in "".join(events)
    (event,) = await lite_world.until_events(1)
    assert (event["outcome"], event["completion_tokens"]) == ("upstream_error", 2)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", MESSAGES])
async def test_a_worker_that_falls_silent_is_given_up_after_the_hosted_process_own_stall_timeout(
    client: aiohttp.ClientSession, lite_world: World, worker: FakeWorker, path: str
) -> None:
    worker.token_delay = 60
    body = BODY | {"stream": True, "prompt": "x"}
    # Its stall timeout is 2 s, the gateway's 600.
    async with asyncio.timeout(20), client.post(path, json=body) as answer:
        events = await answer.text()
    assert '"error"' in events.strip().split("\n\n")[-1]
    (event,) = await lite_world.until_events(1)
    assert (event["outcome"], event["completion_tokens"]) == ("upstream_error", 1)
    await until(lambda: worker.active == 0)


async def test_a_request_outlives_the_death_of_the_hosted_process(
    lite_world: World, redis_server: RedisServer, own_hosted: HostedProcess, tmp_path: Path, worker: FakeWorker
) -> None:
    gateway = await RunningGateway(redis_server.url, tmp_path, hosted_url=own_hosted.url).start()
    worker.gate = asyncio.Event()
    async with aiohttp.ClientSession(gateway.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        asking = asyncio.create_task(client.post(MESSAGES, json=BODY).__aenter__())
        await until(lambda: worker.active == 1)
        own_hosted.kill()
        await until(lambda: worker.active == 0)
        worker.gate.set()
        # While nothing translates, the direct lane has the same worker.
        async with client.post(CHAT, json=BODY | {"model": "small"}) as answer:
            assert answer.status == 200
        assert not asking.done()
        own_hosted.start()
        await asyncio.to_thread(own_hosted.until_healthy)
        answer = await asking
        assert answer.status == 200
        await answer.read()
    events = await lite_world.until_events(3)
    billed = [event for event in events if event["endpoint"] == MESSAGES and event["completion_tokens"]]
    assert [event["outcome"] for event in billed] == ["ok"]
    await lite_world.released()
    await gateway.stop()


async def test_without_a_hosted_process_the_wait_has_the_holds_bound(
    lite_world: World, redis_server: RedisServer, tmp_path: Path, worker: FakeWorker
) -> None:
    lite_world.hold["deadline_s"] = 0.6
    await lite_world.publish()
    gateway = await RunningGateway(redis_server.url, tmp_path).start()
    async with aiohttp.ClientSession(gateway.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        assert await error_of(client, CHAT, BODY) == (503, "hosted_down")
        async with client.post(CHAT, json=BODY | {"stream": True}) as answer:
            assert ": waiting\n\n" in await answer.text()
        await nothing_billed(lite_world)
        await serves_others_at_once(client, lite_world)
    await gateway.stop()
