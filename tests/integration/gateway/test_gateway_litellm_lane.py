"""The litellm lane: the same answer, usage and bill as the direct lane, and Anthropic's API for every model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import pytest
import pytest_asyncio
from support.fake_worker import PROMPT_TOKENS, FakeWorker
from support.gateway_process import KEY, RunningGateway, World, model_entry, route_entry, until
from support.hosted_process import hosted_url
from support.redis_server import RedisServer

__all__ = ["hosted_url"]

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
BILLED = ("outcome", "prompt_tokens", "cached_tokens", "completion_tokens", "reserved_nusd", "price_id")


@pytest_asyncio.fixture
async def lanes(
    world: World, redis_server: RedisServer, worker: FakeWorker, hosted_url: str, tmp_path: Path
) -> AsyncIterator[RunningGateway]:
    """One worker under two names: `small` direct, `small-lite` through litellm."""
    world.models["small-lite"] = model_entry(lane="litellm", model_id="mod_2")
    await world.publish()
    await world.route("small", route_entry(worker.url))
    await world.route("small-lite", route_entry(worker.url))
    gateway = await RunningGateway(redis_server.url, tmp_path, hosted_url=hosted_url).start()
    yield gateway
    await gateway.stop()


@pytest_asyncio.fixture
async def client(lanes: RunningGateway) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(lanes.url, headers={"authorization": f"Bearer {KEY}"}) as session:
        yield session


def texts(events: bytes) -> tuple[str, list[str], list[dict[str, Any]]]:
    """(text, finish reasons, usages) of a stream that ends with its end mark."""
    frames = [frame.removeprefix("data: ") for frame in events.decode().split("\n\n") if frame]
    assert frames[-1] == "[DONE]"
    chunks = [json.loads(frame) for frame in frames[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    return text, reasons, [chunk["usage"] for chunk in chunks if chunk.get("usage")]


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_plain_answers_and_bills_are_equal(
    client: aiohttp.ClientSession, world: World, worker: FakeWorker, path: str
) -> None:
    body: dict[str, Any] = {
        "max_tokens": 4,
        "temperature": 0.5,
        "top_k": 3,
        "messages": [{"role": "user", "content": "x"}],
    }
    if path == TEXT:
        body["prompt"] = "x"
        del body["messages"]
    answers = []
    for model in ("small", "small-lite"):
        async with client.post(path, json=body | {"model": model}) as answer:
            assert answer.status == 200
            answers.append(await answer.json())
    direct, lite = answers
    for kept in ("object", "usage"):
        if kept == "usage":
            assert {name: lite["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
                name: direct["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")
            }
        else:
            assert direct[kept] == lite[kept]
    one, two = direct["choices"][0], lite["choices"][0]
    assert one["finish_reason"] == two["finish_reason"] == "length"
    assert one.get("text") == two.get("text")
    if path == CHAT:
        assert one["message"]["content"] == two["message"]["content"] == "one two three four"
    first, second = await world.until_events(2)
    assert {name: first[name] for name in BILLED} == {name: second[name] for name in BILLED}
    assert (first["lane"], second["lane"]) == ("direct", "litellm")
    sent_direct, sent_lite = worker.requests
    assert sent_direct | {"model": "", "stream": False} == sent_lite | {"model": "", "stream": False}


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("asks", [True, False])
async def test_streams_and_bills_are_equal(client: aiohttp.ClientSession, world: World, path: str, asks: bool) -> None:
    body: dict[str, Any] = {"max_tokens": 4, "stream": True}
    body |= {"messages": [{"role": "user", "content": "x"}]} if path == CHAT else {"prompt": "x"}
    if asks:
        body["stream_options"] = {"include_usage": True}
    seen = []
    for model in ("small", "small-lite"):
        async with client.post(path, json=body | {"model": model}) as answer:
            assert answer.status == 200
            seen.append(texts(await answer.read()))
    assert seen[0][:2] == seen[1][:2] == ("one two three four", ["length"])
    counts = [[(usage["prompt_tokens"], usage["completion_tokens"]) for usage in usages] for _, _, usages in seen]
    assert counts == ([[(PROMPT_TOKENS, 4)]] * 2 if asks else [[], []])
    first, second = await world.until_events(2)
    assert {name: first[name] for name in BILLED} == {name: second[name] for name in BILLED}


TOOL = {"name": "look_up", "description": "Looks up.", "input_schema": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_tools_reach_the_worker(
    client: aiohttp.ClientSession, worker: FakeWorker, path: str, stream: bool
) -> None:
    tool: dict[str, Any] = TOOL
    if path == CHAT:
        function = {"name": TOOL["name"], "description": TOOL["description"], "parameters": TOOL["input_schema"]}
        tool = {"type": "function", "function": function}
    body = {"model": "small-lite", "max_tokens": 3, "messages": [{"role": "user", "content": "x"}], "tools": [tool]}
    async with client.post(path, json=body | {"stream": stream}) as answer:
        assert answer.status == 200, await answer.text()
        assert b"three" in await answer.read()
    (sent,) = worker.requests
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["look_up"]


@pytest.mark.parametrize(
    ("path", "change", "effort"),
    [
        (CHAT, {"reasoning_effort": "low"}, "low"),
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
    ],
)
async def test_how_much_to_reason_reaches_the_worker(
    client: aiohttp.ClientSession, worker: FakeWorker, path: str, change: dict[str, Any], effort: str
) -> None:
    body = {"model": "small-lite", "max_tokens": 3, "messages": [{"role": "user", "content": "x"}]} | change
    async with client.post(path, json=body) as answer:
        assert answer.status == 200, await answer.text()
    assert worker.requests[0]["reasoning_effort"] == effort


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_a_bound_fills_what_the_prompt_leaves(
    client: aiohttp.ClientSession, world: World, worker: FakeWorker, stream: bool
) -> None:
    worker.context = PROMPT_TOKENS + 2
    body = {"model": "small-lite", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    async with client.post(CHAT, json=body) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
    assert [request["max_tokens"] for request in worker.requests] == [5, 2]
    (event,) = await world.until_events(1)
    assert (event["outcome"], event["completion_tokens"]) == ("ok", 2)


async def test_the_anthropic_sdk_talks_to_a_direct_model(lanes: RunningGateway, world: World) -> None:
    async with anthropic.AsyncAnthropic(base_url=lanes.url, api_key=KEY, max_retries=0) as sdk:
        message = await sdk.messages.create(model="small", max_tokens=3, messages=[{"role": "user", "content": "x"}])
        assert [block.text for block in message.content if block.type == "text"] == ["one two three"]
        assert (message.usage.input_tokens, message.usage.output_tokens) == (PROMPT_TOKENS, 3)
        assert message.stop_reason == "max_tokens"
        async with sdk.messages.stream(
            model="small", max_tokens=3, system="Be brief.", messages=[{"role": "user", "content": "x"}]
        ) as stream:
            text = "".join([part async for part in stream.text_stream])
            final = await stream.get_final_message()
    assert text == "one two three"
    assert final.usage.output_tokens == 3
    events = await world.until_events(2)
    for event in events:
        assert (event["outcome"], event["prompt_tokens"], event["completion_tokens"]) == ("ok", PROMPT_TOKENS, 3)
        assert (event["lane"], event["endpoint"]) == ("litellm", "/v1/messages")


async def test_anthropic_errors_have_anthropics_shape(lanes: RunningGateway) -> None:
    async with anthropic.AsyncAnthropic(base_url=lanes.url, api_key="hyd-wrong", max_retries=0) as sdk:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await sdk.messages.create(model="small", max_tokens=3, messages=[{"role": "user", "content": "x"}])
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert body["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_a_client_that_leaves_a_litellm_stream_pays_for_what_it_got(
    client: aiohttp.ClientSession, world: World, worker: FakeWorker, path: str
) -> None:
    worker.token_delay = 0.05
    body = {"model": "small-lite", "max_tokens": 1000, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    async with client.post(path, json=body) as answer:
        got = b""
        async for data in answer.content.iter_any():
            got += data
            if b"three" in got:
                break
        answer.close()
    (event,) = await world.until_events(1)
    assert event["outcome"] == "client_closed"
    assert 3 <= event["completion_tokens"] < 100
    await until(lambda: worker.active == 0)
    assert worker.aborted == 1


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_a_worker_that_dies_never_looks_like_a_normal_end(
    client: aiohttp.ClientSession, world: World, worker: FakeWorker, path: str
) -> None:
    worker.die_after = 3
    body = {"model": "small-lite", "max_tokens": 8, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    async with client.post(path, json=body) as answer:
        assert answer.status == 200
        got = await answer.read()
    last = got.decode().strip().split("\n\n")[-1]
    assert '"error"' in last
    assert b"[DONE]" not in got
    assert b"message_stop" not in got
    (event,) = await world.until_events(1)
    assert (event["outcome"], event["completion_tokens"]) == ("upstream_error", 3)


async def test_a_workers_refusal_is_passed_on(client: aiohttp.ClientSession, world: World, worker: FakeWorker) -> None:
    worker.refuse = (
        400,
        {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400},
    )
    body = {"model": "small-lite", "max_tokens": 8, "messages": [{"role": "user", "content": "x"}]}
    for stream in (False, True):
        async with client.post(CHAT, json=body | {"stream": stream}) as answer:
            assert answer.status == 400
            assert "too long" in (await answer.json())["error"]["message"]
    await until(lambda: _nothing_reserved(world))


async def _nothing_reserved(world: World) -> bool:
    return await world.reserved() == 0


async def test_the_hosted_process_serves_nobody_without_the_secret(hosted_url: str) -> None:
    async with aiohttp.ClientSession() as session, session.post(hosted_url + CHAT, json={}) as answer:
        assert answer.status == 401
