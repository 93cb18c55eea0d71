"""Requests to a running model: what the client gets, what the worker gets, what is billed."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import openai
import pytest
from support.fake_worker import PROMPT_TOKENS, FakeWorker
from support.gateway_process import KEY, PRICE, RunningGateway, World

CHAT = "/v1/chat/completions"


async def straight(worker: FakeWorker, path: str, body: dict[str, Any]) -> bytes:
    """What the worker itself answers."""
    headers = {"authorization": f"Bearer {worker.api_key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(worker.url + path, json=body, headers=headers) as answer,
    ):
        return await answer.read()


async def test_a_plain_answer_is_the_workers_own_bytes_and_is_billed(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    async with client.post(CHAT, json=question, headers={"x-request-id": "mine-1"}) as answer:
        assert answer.status == 200
        assert answer.headers["x-request-id"] == "mine-1"
        body = await answer.read()
    assert body == await straight(worker, CHAT, question)
    (event,) = await world.until_events(1)
    assert event["outcome"] == "ok"
    assert (event["prompt_tokens"], event["completion_tokens"]) == (PROMPT_TOKENS, 3)
    assert event["request_id"] == "mine-1"
    assert event["group_id"] == "grp_1"
    cost = PROMPT_TOKENS * PRICE["input_nusd"] + 3 * PRICE["output_nusd"] + PRICE["request_nusd"]
    assert event["reserved_nusd"] == cost
    assert await world.reserved() == cost


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize(
    "options",
    [
        None,
        {"include_usage": True},
        {"include_usage": True, "continuous_usage_stats": True},
        {"continuous_usage_stats": True},
    ],
)
@pytest.mark.parametrize("n", [1, 2])
async def test_a_stream_equals_what_the_worker_would_have_sent(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, path: str,
    options: dict[str, Any] | None, n: int,
) -> None:  # fmt: skip
    body: dict[str, Any] = {"model": "small", "max_tokens": 4, "stream": True, "n": n, "stream_options": options}
    body |= {"prompt": "Count."} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "Count."}]}
    async with client.post(path, json=body) as answer:
        assert answer.status == 200
        got = await answer.read()
    assert got == await straight(worker, path, body)
    (event,) = await world.until_events(1)
    assert (event["outcome"], event["prompt_tokens"], event["completion_tokens"]) == ("ok", PROMPT_TOKENS, 4 * n)


async def test_the_worker_gets_the_real_name_a_bound_and_the_tenants_salt(
    gateway: RunningGateway, client: aiohttp.ClientSession, worker: FakeWorker, question: dict[str, Any]
) -> None:
    del question["max_tokens"]
    async with client.post(CHAT, json=question | {"model": "tiny", "temperature": 0.5}) as answer:
        assert answer.status == 200
    sent = worker.requests[0]
    assert (sent["model"], sent["max_tokens"], sent["cache_salt"], sent["temperature"]) == ("small", 5, "salt-1", 0.5)


async def test_the_openai_sdk_streams(gateway: RunningGateway) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=KEY) as sdk:
        stream = await sdk.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "Count."}], max_tokens=3, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        names = [model.id async for model in sdk.models.list()]
    assert text == "one two three"
    assert names == ["small", "tiny"]


async def test_models_are_listed_and_looked_up(gateway: RunningGateway, client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/models/small") as answer:
        assert json.loads(await answer.read()) == {
            "id": "small", "object": "model", "created": 1_700_000_000, "owned_by": "hydrant",
        }  # fmt: skip
    async with client.get("/v1/models/large") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "model_not_found"


async def test_metrics_name_models_and_no_tenants(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    async with client.post(CHAT, json=question) as answer:
        assert answer.status == 200
    async with client.get("/metrics") as answer:
        text = await answer.text()
    assert 'hydrant_tokens_total{kind="completion",model="small"}' in text
    assert "ten_1" not in text
