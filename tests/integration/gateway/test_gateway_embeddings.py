"""`/v1/embeddings`: who serves it, what is billed, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from support.fake_worker import PROMPT_TOKENS, FakeWorker
from support.gateway_process import PRICE, RunningGateway, World, model_entry, route_entry

PATH = "/v1/embeddings"
COST = PROMPT_TOKENS * PRICE["input_nusd"] + PRICE["request_nusd"]


@pytest.fixture
async def embedder(gateway: RunningGateway, world: World, worker: FakeWorker) -> RunningGateway:
    """A gateway with an embedding model beside the one that generates."""
    world.models["vectors"] = model_entry(model_id="mod_2", embedding=True, lane="litellm")
    await world.publish()
    await world.route("vectors", route_entry(worker.url, "grp_2"))
    await world.until_read()
    return gateway


async def refused(client: aiohttp.ClientSession, body: dict[str, Any], path: str = PATH) -> dict[str, Any]:
    async with client.post(path, json=body) as answer:
        assert answer.status == 400, await answer.text()
        return (await answer.json())["error"]


@pytest.mark.parametrize("given", ["one", ["one", "two"], [1, 2], [[1, 2], [3]]])
async def test_vectors_arrive_unchanged_and_are_billed_by_their_prompt(
    embedder: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, given: Any
) -> None:
    body = {"model": "vectors", "input": given, "encoding_format": "base64", "dimensions": 4, "user": "u"}
    async with client.post(PATH, json=body) as answer:
        assert answer.status == 200
        raw = await answer.read()
    assert raw.startswith(b'{"data":[{"embedding":[0.25,-1.5],"index":0')
    assert worker.requests == [body], "with nothing added: SGLang knows no salt here, and has no cache"
    (event,) = await world.until_events(1)
    assert (event["endpoint"], event["lane"], event["outcome"]) == (PATH, "direct", "ok")
    assert (event["prompt_tokens"], event["completion_tokens"]) == (PROMPT_TOKENS, 0)
    assert event["reserved_nusd"] == COST, "what it cost stays reserved until the ledger has it"
    assert event["first_token_at_ms"] is not None, "a cold start of the model has answered"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": [[1], []]}, "input"),
        ({"input": [{"text": "a", "image": "http://169.254.169.254/"}]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": 5}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "4"}, "dimensions"),
        ({"embed_overrides": [[[0.1]]]}, "embed_overrides"),
        ({"lora_path": "x"}, "lora_path"),
    ],
)
async def test_a_wrong_field_is_named(
    embedder: RunningGateway, client: aiohttp.ClientSession, world: World, change: dict[str, Any], param: str
) -> None:
    assert (await refused(client, {"model": "vectors", "input": "a"} | change))["param"] == param
    assert await world.reserved() == 0


async def test_each_kind_of_model_serves_its_own_endpoints(
    embedder: RunningGateway, client: aiohttp.ClientSession, worker: FakeWorker
) -> None:
    assert "makes no embeddings" in (await refused(client, {"model": "small", "input": "a"}))["message"]
    question = {"model": "vectors", "messages": [{"role": "user", "content": "hi"}]}
    assert "does not generate" in (await refused(client, question, "/v1/chat/completions"))["message"]
    assert (
        "does not generate" in (await refused(client, {"model": "vectors", "input": "a"}, "/v1/responses"))["message"]
    )
    assert worker.requests == [], "a chat would end an embedding engine"


async def test_what_is_no_answer_is_not_billed(
    embedder: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker
) -> None:
    worker.alter = lambda document: document.pop("usage")
    async with client.post(PATH, json={"model": "vectors", "input": "a"}) as answer:
        assert answer.status == 502
    events = await world.until_events(3)
    assert all(event["prompt_tokens"] == 0 and event["outcome"] == "upstream_error" for event in events)
    await world.released()
    assert await world.reserved() == 0


async def test_a_refusal_of_the_worker_is_passed_on(
    embedder: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker
) -> None:
    worker.refuse = (400, json.loads('{"object":"error","message":"The input is longer","param":null,"code":400}'))
    assert (await refused(client, {"model": "vectors", "input": "a"}))["message"] == "The input is longer"
    await world.released()
