"""Requests for a model that is not running: waiting, being woken, giving up, and never without a bound."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, OTHER_KEY, RunningGateway, World, route_entry, until

from gateway.clock import now_ms

CHAT = "/v1/chat/completions"


async def post(client: aiohttp.ClientSession, body: dict[str, Any], key: str = KEY) -> tuple[int, Any, Any]:
    """(status, JSON document, headers) of a plain request."""
    async with client.post(CHAT, json=body, headers={"authorization": f"Bearer {key}"}) as answer:
        return answer.status, await answer.json(), answer.headers


async def activity(world: World) -> dict[str, Any]:
    """The one gateway's activity entry of the model."""
    entries = await world.redis.hvals("hyd:activity:small")
    return json.loads(entries[0]) if entries else {"waiting": 0}


async def waiting(world: World, count: int) -> None:
    """Until the published activity says that so many requests wait."""

    async def says_so() -> bool:
        return (await activity(world))["waiting"] == count

    await until(says_so)


async def nothing_held(world: World) -> None:
    """Until no attempt is open and nothing is reserved."""

    async def clean() -> bool:
        return await world.redis.hlen("hyd:attempts") == 0 and await world.reserved() == 0

    await until(clean)


async def test_that_nobody_waits_any_more_is_told_at_once(
    cold_gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    worker: FakeWorker,
    question: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking = asyncio.create_task(post(client, question))
    await waiting(world, 1)
    monkeypatch.setattr("gateway.waiting.demand.PULSE_SECONDS", 600)
    await asyncio.sleep(1.1)  # the pause that has begun already
    await world.route("small", route_entry(worker.url))
    status, _, _ = await asking
    assert status == 200
    await waiting(world, 0)


async def test_a_held_request_is_announced_woken_and_told_its_cold_start(
    cold_gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    worker: FakeWorker,
    question: dict[str, Any],
) -> None:
    running = [asyncio.create_task(post(client, question)) for _ in range(3)]
    await waiting(world, 3)
    entry = await activity(world)
    assert entry["oldest_at_ms"] <= now_ms()
    assert entry["running"] == 0
    assert await world.redis.smembers("hyd:activity:models") == {"small"}
    # Three waiters, one hint.
    (message,) = await world.redis.lrange("control", 0, -1)
    assert json.loads(message)["headers"]["task"] == "control.scale"
    await world.route("small", route_entry(worker.url))
    for status, _, headers in await asyncio.gather(*running):
        assert status == 200
        cold_start_id, waited_ms = headers["x-hydrant-cold-start"].split("; ")
        assert cold_start_id == "cst_1"
        assert int(waited_ms) > 0
    events = await world.until_events(3)
    assert {event["cold_start_id"] for event in events} == {"cst_1"}
    assert all(event["held_ms"] > 0 for event in events)
    await waiting(world, 0)
    _, _, headers = await post(client, question)
    assert "x-hydrant-cold-start" not in headers


async def test_the_controller_hears_since_when_each_class_waits(
    cold_gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    worker: FakeWorker,
    question: dict[str, Any],
) -> None:
    world.tenants["ten_2"]["service_class"] = "fast"
    await world.applied()
    began_ms = now_ms()
    slow = [asyncio.create_task(post(client, question)) for _ in range(2)]
    await waiting(world, 2)
    fast = asyncio.create_task(post(client, question, OTHER_KEY))
    await waiting(world, 3)
    entry = await activity(world)
    oldest = entry["oldest_by_class"]
    assert began_ms <= entry["oldest_at_ms"] == oldest["standard"] <= oldest["fast"] <= now_ms()
    await world.route("small", route_entry(worker.url))
    assert [status for status, _, _ in await asyncio.gather(*slow, fast)] == [200, 200, 200]


async def test_a_held_stream_is_kept_alive_by_comments(
    cold_gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    worker: FakeWorker,
    question: dict[str, Any],
) -> None:
    async with client.post(CHAT, json=question | {"stream": True}) as answer:
        assert await answer.content.readuntil(b"\n\n") == b": waiting\n\n"
        await world.route("small", route_entry(worker.url))
        rest = await answer.read()
    frames = [frame for frame in rest.split(b"\n\n") if frame]
    assert frames[-1] == b"data: [DONE]"
    assert all(frame == b": waiting" or frame.startswith(b"data: ") for frame in frames)


@pytest.mark.parametrize("known", [True, False])
async def test_a_pinged_stream_tells_the_cold_start_that_it_waits_for(
    cold_gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    worker: FakeWorker,
    question: dict[str, Any],
    known: bool,
) -> None:
    if known:
        start = {"cold_start_id": "cst_1", "state": "starting", "eta_ms": now_ms() + 1000}
        await world.redis.hset("hyd:coldstart", "small", json.dumps(start))
        await world.redis.publish("hyd:routes:changed", "1")
        await until(lambda: cold_gateway.app._routes.starting("small") == "cst_1")
    async with client.post(CHAT, json=question | {"stream": True}) as answer:
        await answer.content.readuntil(b"\n\n")
        await world.route("small", route_entry(worker.url))
        assert b"[DONE]" in await answer.read()
        # A head that is sent before the controller has decided anything cannot name it.
        assert answer.headers.get("x-hydrant-cold-start", "").partition(";")[0] == ("cst_1" if known else "")


async def test_a_wait_for_a_warm_workers_place_is_no_cold_start(
    gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    worker: FakeWorker,
    question: dict[str, Any],
) -> None:
    await world.route("small", route_entry(worker.url, capacity=1))
    await world.until_read()
    worker.gate = asyncio.Event()
    running = [asyncio.create_task(post(client, question)) for _ in range(2)]
    await waiting(world, 1)
    worker.gate.set()
    for status, _, headers in await asyncio.gather(*running):
        assert status == 200
        assert "x-hydrant-cold-start" not in headers


async def test_the_openai_sdk_waits_through_the_comments(
    cold_gateway: RunningGateway, world: World, worker: FakeWorker
) -> None:
    async with openai.AsyncOpenAI(base_url=cold_gateway.url + "/v1", api_key=KEY, max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "x"}], max_tokens=2, stream=True
        )
        await world.route("small", route_entry(worker.url))
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "one two"


async def test_comments_can_be_switched_off_per_key(
    cold_gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    worker: FakeWorker,
    question: dict[str, Any],
) -> None:
    for entry in world.keys.values():
        entry["sse_ping"] = False
    await world.applied()
    asking = asyncio.create_task(client.post(CHAT, json=question | {"stream": True}).__aenter__())
    await waiting(world, 1)
    await asyncio.sleep(0.2)
    assert not asking.done()
    await world.route("small", route_entry(worker.url))
    answer = await asking
    assert answer.headers["x-hydrant-cold-start"].startswith("cst_1; ")
    assert b": waiting" not in await answer.read()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_the_line_is_forgotten(
    cold_gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker,
    question: dict[str, Any], stream: bool,
) -> None:  # fmt: skip
    async def ask() -> None:
        async with client.post(CHAT, json=question | {"stream": stream}) as answer:
            await answer.read()

    asking = asyncio.create_task(ask())
    await waiting(world, 1)
    assert await world.reserved() > 0
    asking.cancel()
    await waiting(world, 0)
    await nothing_held(world)
    await world.route("small", route_entry(worker.url))
    assert (await post(client, question))[0] == 200
    assert len(worker.requests) == 1


async def test_the_deadline_ends_a_hold(
    cold_gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    world.hold["deadline_s"] = 0.3
    await world.applied()

    async def timed_out() -> bool:
        async with client.post(CHAT, json=question) as answer:
            assert answer.headers["retry-after"]
            return answer.status == 504 and (await answer.json())["error"]["code"] == "hold_timeout"

    await until(timed_out)
    async with client.post(CHAT, json=question | {"stream": True}) as answer:
        assert answer.status == 200
        body = await answer.read()
    assert json.loads(body.split(b"data: ")[1])["error"]["code"] == "hold_timeout"
    await nothing_held(world)


@pytest.mark.parametrize(
    ("eta_ms", "least_s", "most_s"),
    [(90_000, 85, 90), (10**7, 600, 600), (-1000, 5, 5), (None, 5, 5)],
    ids=["known", "far", "past", "unknown"],
)
async def test_a_hold_that_ends_tells_when_the_model_is_expected(
    cold_gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    question: dict[str, Any],
    eta_ms: int | None,
    least_s: int,
    most_s: int,
) -> None:
    world.hold["deadline_s"] = 0.3
    await world.applied()
    start = {"cold_start_id": "cst_1", "state": "starting", "error": None, "failed_at_ms": None}
    expected_ms = None if eta_ms is None else now_ms() + eta_ms
    await world.redis.hset("hyd:coldstart", "small", json.dumps(start | {"eta_ms": expected_ms}))
    await world.redis.publish("hyd:routes:changed", "1")
    await until(lambda: cold_gateway.app._routes.starting("small") == "cst_1")
    async with client.post(CHAT, json=question) as answer:
        assert answer.status == 504
        assert least_s <= int(answer.headers["retry-after"]) <= most_s
        message = (await answer.json())["error"]["message"]
        assert ("expected in" in message) is (most_s > 5)


async def test_a_failed_cold_start_ends_the_wait_and_its_reason_is_for_the_operators_log(
    cold_gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    old = {
        "cold_start_id": "cst_0",
        "state": "failed",
        "eta_ms": None,
        "error": "old",
        "failed_at_ms": now_ms() - 10_000,
    }
    await world.redis.hset("hyd:coldstart", "small", json.dumps(old))
    await world.redis.publish("hyd:routes:changed", "1")
    asking = asyncio.create_task(post(client, question))
    await waiting(world, 1)
    new = {"cold_start_id": "cst_1", "state": "failed", "eta_ms": None, "error": "no device has enough memory",
           "failed_at_ms": now_ms() + 1}  # fmt: skip
    await world.redis.hset("hyd:coldstart", "small", json.dumps(new))
    await world.redis.publish("hyd:routes:changed", "2")
    status, document, headers = await asking
    assert status == 503
    assert int(headers["retry-after"]) > 0
    assert document["error"]["code"] == "model_start_failed"
    assert "`small` could not be started" in document["error"]["message"]
    assert "memory" not in document["error"]["message"]
    [told] = [line for line in caplog.messages if "could not be started" in line]
    assert "no device has enough memory" in told
    await nothing_held(world)


async def test_count_and_bytes_are_bounded(
    cold_gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    worker: FakeWorker,
    question: dict[str, Any],
) -> None:
    world.hold |= {"max_requests": 3, "max_bytes": 2000}
    await world.applied()
    held = [asyncio.create_task(post(client, question)) for _ in range(3)]
    await waiting(world, 3)
    status, document, headers = await post(client, question)
    assert (status, document["error"]["code"]) == (503, "hold_full")
    assert int(headers["retry-after"]) > 0
    held[0].cancel()
    await waiting(world, 2)
    big = question | {"user": "x" * 2000}
    assert (await post(client, big))[0] == 503
    await world.route("small", route_entry(worker.url))
    assert [status for status, _, _ in await asyncio.gather(*held[1:])] == [200, 200]


async def test_a_tenant_with_a_long_line_gives_way_to_another(
    cold_gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    worker: FakeWorker,
    question: dict[str, Any],
) -> None:
    world.hold["max_requests"] = 4
    await world.applied()
    greedy = [asyncio.create_task(post(client, question)) for _ in range(4)]
    await waiting(world, 4)
    modest = asyncio.create_task(post(client, question, OTHER_KEY))
    await until(lambda: any(task.done() for task in greedy))
    (displaced,) = [task.result() for task in greedy if task.done()]
    assert displaced[0] == 429
    await world.route("small", route_entry(worker.url))
    assert (await modest)[0] == 200
    assert [task.result()[0] for task in greedy if (await task)[0] == 200] == [200] * 3


async def test_tenants_take_turns_and_each_keeps_its_order(
    cold_gateway: RunningGateway,
    client: aiohttp.ClientSession,
    world: World,
    worker: FakeWorker,
    question: dict[str, Any],
) -> None:
    held = []
    for number in range(6):
        held.append(asyncio.create_task(post(client, question | {"user": f"a{number}"})))
        await until(lambda: cold_gateway.app.held == len(held))
    for number in range(2):
        held.append(asyncio.create_task(post(client, question | {"user": f"b{number}"}, OTHER_KEY)))
        await until(lambda: cold_gateway.app.held == len(held))
    worker.token_delay = 0.02
    await world.route("small", route_entry(worker.url, capacity=1))
    await asyncio.gather(*held)
    assert [request["user"] for request in worker.requests] == ["a0", "b0", "a1", "b1", "a2", "a3", "a4", "a5"]
    assert worker.most_active == 1


async def test_a_full_worker_makes_others_wait(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    await world.route("small", route_entry(worker.url, capacity=2))
    await world.until_read()
    worker.gate = asyncio.Event()
    running = [asyncio.create_task(post(client, question)) for _ in range(5)]
    await waiting(world, 3)
    entry = await activity(world)
    assert entry["groups"] == {"grp_1": 2}
    worker.gate.set()
    assert [status for status, _, _ in await asyncio.gather(*running)] == [200] * 5
    assert worker.most_active == 2
