"""`/v1/responses`: passed through, billed by the running usage, and what would need something stored is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from support.fake_worker import PROMPT_TOKENS, FakeWorker
from support.gateway_process import RunningGateway, World, route_entry

PATH = "/v1/responses"
QUESTION = {"model": "small", "input": "Count.", "max_output_tokens": 3}


def counts(event: dict[str, Any]) -> tuple[int, int, int, str]:
    return event["prompt_tokens"], event["cached_tokens"], event["completion_tokens"], event["outcome"]


async def test_a_whole_response(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker
) -> None:
    asked = QUESTION | {"tools": [{"type": "function", "name": "f", "parameters": {}}], "reasoning": {"effort": "low"}}
    async with client.post(PATH, json=asked | {"store": True}) as answer:
        document = await answer.json()
    assert (document["status"], document["usage"]["output_tokens"]) == ("incomplete", 3)
    assert document["store"] is False, "nothing is stored, and the answer says so"
    assert worker.requests == [asked | {"store": False, "cache_salt": "salt-1"}]
    (event,) = await world.until_events(1)
    assert counts(event) == (PROMPT_TOKENS, 2, 3, "ok")
    assert event["endpoint"] == PATH


async def test_a_stream_is_the_workers_without_its_comments(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World
) -> None:
    async with client.post(PATH, json=QUESTION | {"stream": True}) as answer:
        events = (await answer.text()).split("\n\n")
    assert [event.split("\n")[0] for event in events] == [
        "event: response.created",
        "event: response.in_progress",
        *["event: response.output_text.delta"] * 3,
        "event: response.incomplete",
        "",
    ]
    (event,) = await world.until_events(1)
    assert counts(event) == (PROMPT_TOKENS, 2, 3, "ok")


async def test_who_leaves_pays_what_was_delivered(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker
) -> None:
    worker.token_delay = 0.05
    async with client.post(PATH, json=QUESTION | {"stream": True, "max_output_tokens": 500}) as answer:
        seen = b""
        while seen.count(b"output_text.delta\n") < 4:
            seen += await answer.content.readany()
    (event,) = await world.until_events(1)
    assert event["outcome"] == "client_closed"
    assert 4 <= event["completion_tokens"] <= 8
    assert event["prompt_tokens"] == PROMPT_TOKENS
    assert worker.aborted == 1


async def test_a_worker_that_dies_before_its_first_token_is_replaced(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, second: FakeWorker
) -> None:
    worker.die_after = -1
    await world.route("small", route_entry(worker.url, prefer=2), route_entry(second.url, "grp_2"))
    await world.until_read()
    async with client.post(PATH, json=QUESTION | {"stream": True}) as answer:
        text = await answer.text()
    assert text.count("event: response.created") == 1, "the first worker's opening was never sent"
    assert "event: response.incomplete" in text
    events = await world.until_events(2)
    assert sorted(counts(event)[2:] for event in events) == [(0, "upstream_error"), (3, "ok")]


@pytest.mark.parametrize("way", ["die_after", "end_after"])
async def test_a_stream_that_breaks_off_ends_in_an_error(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, way: str
) -> None:
    setattr(worker, way, 2)
    async with client.post(PATH, json=QUESTION | {"stream": True}) as answer:
        text = await answer.text()
    assert text.rstrip().split("\n\n")[-1].startswith('data: {"error":{"message":"The worker stopped')
    (event,) = await world.until_events(1)
    assert counts(event)[2:] == (2, "upstream_error")


async def test_a_refusal_before_the_first_token_has_its_status(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker
) -> None:
    worker.refuse = (400, {"error": {"message": "The input is too long.", "code": 400}})
    async with client.post(PATH, json=QUESTION | {"stream": True}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["message"] == "The input is too long."
    await world.released()
    assert await world.reserved() == 0


async def test_a_worker_that_tells_no_usage_is_not_served(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker
) -> None:
    worker.tells_usage = False
    async with client.post(PATH, json=QUESTION | {"stream": True}) as answer:
        text = await answer.text()
    assert "event: " not in text
    assert '"code":"worker_failed"' in text
    await world.released()
    assert await world.reserved() == 0


async def test_a_failed_response_is_not_billed(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker
) -> None:
    worker.alter = lambda document: document.update(status="failed")
    async with client.post(PATH, json=QUESTION) as answer:
        assert answer.status == 502
    await world.released()
    assert await world.reserved() == 0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]}]},
            "input[0].content",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "video_url", "video_url": "http://x"}]}]},
            "input[0].content",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://169.254.169.254/"}]}]},
            "input[0].content",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file"}]}]},
            "input[0].output",
        ),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"store": "yes"}, "store"),
        ({"request_id": "resp_mine"}, "request_id"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "mcp", "server_url": "http://x"}]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": {}}, "tools"),
        ({"cache_salt": "another's"}, "cache_salt"),
    ],
)
async def test_a_wrong_field_is_named(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, change: dict[str, Any], param: str
) -> None:
    async with client.post(PATH, json=QUESTION | change) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["param"]) == (400, param), error
    assert await world.reserved() == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "resp_1"), ("DELETE", "resp_1"), ("POST", "resp_1/cancel"), ("GET", "resp_1/input_items")],
)
async def test_nothing_is_stored(client: aiohttp.ClientSession, method: str, path: str) -> None:
    async with client.request(method, f"{PATH}/{path}") as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"]) == (404, "response_not_stored")


async def test_a_cold_stream_gets_pings_first(
    cold_gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker
) -> None:
    async with client.post(PATH, json=QUESTION | {"stream": True}) as answer:
        assert (await answer.content.readany()).startswith(b": waiting")
        await world.route("small", route_entry(worker.url))
        async with asyncio.timeout(10):
            assert b"event: response.incomplete" in await answer.content.read()
