"""Models of hosted providers: a real gateway and hosted process, and a stand-in of each provider's API."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support.fake_provider import CACHED, PROMPT, PROVIDER_KEY, VECTOR, FakeProvider
from support.gateway_process import KEY, RunningGateway, World, model_entry
from support.hosted_process import HostedProcess, hosted_url, own_hosted
from support.redis_server import RedisServer

from gateway.hosted.readers import EMBEDDERS, READERS
from registry.providers import EMBEDDING_PROVIDERS, PROVIDERS

__all__ = ["hosted_url", "own_hosted"]

CHAT, MESSAGES, TEXT, VECTORS = "/v1/chat/completions", "/v1/messages", "/v1/completions", "/v1/embeddings"
# Who has an API of its own for text completions; others are asked a prompt as a user's message.
COMPLETES = {"instruct": "/completions", "together_ai": "/completions", "openai": "/chat/completions"}
PRICE = {"price_id": "prc_h", "input_nusd": 100, "cached_input_nusd": 50, "output_nusd": 400, "request_nusd": 7}
MODEL = {"openai": "gpt-4.1-mini", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}


def cost(words: int) -> int:
    return (PROMPT - CACHED) * 100 + CACHED * 50 + words * 400 + 7


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    fake = await FakeProvider().start()
    yield fake
    await fake.stop()


def hosted_entry(name: str, url: str, key_env: str = "STAND_IN_API_KEY") -> dict[str, Any]:
    """A hosted model of the snapshot."""
    provider = {"model": f"{name}/{MODEL.get(name, 'some/model')}", "api_base": url, "key_env": key_env}
    return model_entry(lane="hosted", model_id=f"mod_{name}", provider=provider, price=PRICE, context_length=100_000)


@pytest_asyncio.fixture
async def gateway(
    world: World, redis_server: RedisServer, hosted_url: str, provider: FakeProvider, tmp_path: Path
) -> AsyncIterator[RunningGateway]:
    for name in READERS:
        world.models[name] = hosted_entry(name, provider.url)
    for name in EMBEDDERS:
        world.models[f"{name}-vectors"] = hosted_entry(name, provider.url) | {"embedding": True}
    world.models["instruct"] = hosted_entry("openai", provider.url)
    world.models["instruct"]["provider"]["model"] = "openai/gpt-3.5-turbo-instruct"
    world.models["keyless"] = hosted_entry("openai", provider.url, "MISSING_API_KEY")
    await world.publish()
    gateway = await RunningGateway(redis_server.url, tmp_path, hosted_url=hosted_url).start()
    yield gateway
    await gateway.stop()


@pytest_asyncio.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(gateway.url, headers={"authorization": f"Bearer {KEY}"}) as session:
        yield session


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Count, please."}], "max_tokens": 3} | more


async def broken_off(client: aiohttp.ClientSession, world: World, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The one usage event of a stream that its provider breaks off after four tokens."""
    async with client.post(path, json=body) as answer:
        events = await answer.read()
    assert b'"error"' in events
    assert b"[DONE]" not in events
    [event] = await world.until_events(1)
    assert event["outcome"] == "upstream_error"
    assert 1 <= event["completion_tokens"] <= 4
    return event


def text_of(events: bytes) -> str:
    chunks = [json.loads(e[6:]) for e in events.decode().split("\n\n") if e.startswith("data: {")]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def test_the_registry_knows_the_same_providers() -> None:
    assert set(PROVIDERS) == set(READERS)
    assert set(EMBEDDING_PROVIDERS) == set(EMBEDDERS)


@pytest.mark.parametrize("name", READERS)
async def test_a_plain_answer_and_its_bill(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, name: str
) -> None:
    async with client.post(CHAT, json=ask(name)) as answer:
        document = await answer.json()
        assert answer.status == 200, document
        assert answer.headers["x-hydrant-served-by"] == name
    assert document["choices"][0]["message"]["content"] == "one two three"
    assert document["model"] == name
    assert (document["usage"]["prompt_tokens"], document["usage"]["completion_tokens"]) == (PROMPT, 3)
    [event] = await world.until_events(1)
    assert (event["lane"], event["model"], event["price_id"], event["estimated"]) == ("hosted", name, "prc_h", False)
    assert (event["reserved_nusd"], event["cached_tokens"], event["group_id"]) == (cost(3), CACHED, None)
    assert provider.keys == [PROVIDER_KEY]
    assert "salt-1" not in json.dumps(provider.requests)
    assert await world.redis.exists(f"hyd:activity:{name}") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_knows_no_n_has_answered_with_the_one_answer_that_it_gives(
    client: aiohttp.ClientSession, world: World, stream: bool
) -> None:
    async with client.post(CHAT, json=ask("openai", n=3, stream=stream)) as answer:
        said = await answer.read()
        assert answer.status == 200, said
    assert (b"data: [DONE]" if stream else b"one two three") in said
    [event] = await world.until_events(1)
    assert (event["outcome"], event["completion_tokens"]) == ("ok", 3)


@pytest.mark.parametrize("name", READERS)
async def test_a_stream_and_its_bill(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, name: str
) -> None:
    async with client.post(CHAT, json=ask(name, stream=True, stream_options={"include_usage": True})) as answer:
        events = await answer.read()
    assert text_of(events) == "one two three"
    assert events.endswith(b"data: [DONE]\n\n")
    last = json.loads(events.decode().split("\n\n")[-3][6:])
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"], last["choices"]) == (PROMPT, 3, [])
    [event] = await world.until_events(1)
    assert (event["outcome"], event["reserved_nusd"], event["estimated"]) == ("ok", cost(3), False)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", [*READERS, "instruct"])
async def test_text_completions_and_their_bill(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, name: str, stream: bool
) -> None:
    body = {"model": name, "prompt": "Count", "max_tokens": 3, "temperature": 0.5, "stream": stream}
    async with client.post(TEXT, json=body | {"stream_options": {"include_usage": True}}) as answer:
        raw = await answer.read()
        assert answer.status == 200, raw
        assert answer.headers["x-hydrant-served-by"] == name
    events = raw.decode().split("\n\n")
    if stream:
        assert text_of(raw) == "one two three"
        assert events[-2] == "data: [DONE]"
    last = json.loads(events[-3].removeprefix("data: ")) if stream else json.loads(raw)
    assert (last["object"], last["model"]) == ("text_completion", name)
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (PROMPT, 3)
    if not stream:
        [choice] = last["choices"]
        assert (choice["index"], choice["text"], choice["finish_reason"]) == (0, "one two three", "length")
    [event] = await world.until_events(1)
    assert (event["lane"], event["endpoint"], event["price_id"]) == ("hosted", TEXT, "prc_h")
    assert (event["outcome"], event["reserved_nusd"], event["estimated"]) == ("ok", cost(3), False)
    [asked] = provider.requests
    if name in COMPLETES:
        assert asked["path"] == COMPLETES[name]
    if asked["path"] == "/completions":
        assert asked["prompt"] == "Count"


@pytest.mark.parametrize("prompt", [["Count", "more"], [1, 2], [[1], [2]]])
async def test_prompts_that_only_openais_own_api_takes(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, prompt: Any
) -> None:
    for name in ("openai", "together_ai", "anthropic"):
        async with client.post(TEXT, json={"model": name, "prompt": prompt}) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, "prompt")
    # A chat has no suffix; `best_of` bills more than was reserved.
    for name, extra in (("anthropic", "suffix"), ("instruct", "best_of")):
        async with client.post(TEXT, json={"model": name, "prompt": "Count", extra: 2}) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, extra)
    assert provider.requests == []
    # The stand-in answers one prompt: of two, the answer is not whole.
    async with client.post(TEXT, json={"model": "instruct", "prompt": prompt}) as answer:
        assert answer.status == (200 if prompt == [1, 2] else 502), await answer.text()
    assert provider.requests[0]["prompt"] == prompt
    await world.released()


@pytest.mark.parametrize("fault", ["die_after", "end_after"])
@pytest.mark.parametrize("name", ["instruct", "anthropic"])
async def test_a_text_stream_that_breaks_is_an_error_and_billed_for_what_came(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, name: str, fault: str
) -> None:
    setattr(provider, fault, 4)
    event = await broken_off(client, world, TEXT, {"model": name, "prompt": "Count", "stream": True, "max_tokens": 8})
    assert event["estimated"]


@pytest.mark.parametrize("given", ["one", ["one", "two"]])
@pytest.mark.parametrize("name", EMBEDDERS)
async def test_vectors_and_their_bill(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, name: str, given: Any
) -> None:
    more = {} if name == "mistral" else {"dimensions": 2}  # of which Mistral's API knows nothing
    body = {"model": f"{name}-vectors", "input": given, "user": "somebody"} | more
    documents = []
    for form in ("float", "base64"):
        async with client.post(VECTORS, json=body | {"encoding_format": form}) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.headers["x-hydrant-served-by"] == body["model"]
            documents.append(await answer.json())
    numbers, packed = documents
    count = len(given) if isinstance(given, list) else 1
    assert [(one["index"], one["embedding"]) for one in numbers["data"]] == [(at, VECTOR) for at in range(count)]
    unpacked = [list(struct.unpack("<2f", base64.b64decode(one["embedding"]))) for one in packed["data"]]
    assert unpacked == [VECTOR] * count
    assert (numbers["model"], numbers["usage"]) == (body["model"], {"prompt_tokens": PROMPT, "total_tokens": PROMPT})
    event, _ = await world.until_events(2)
    assert (event["lane"], event["endpoint"], event["outcome"]) == ("hosted", VECTORS, "ok")
    assert (event["prompt_tokens"], event["completion_tokens"]) == (PROMPT, 0)
    assert event["reserved_nusd"] == PROMPT * 100 + 7
    assert provider.keys == [PROVIDER_KEY] * 2
    [asked, _] = provider.requests
    assert asked["input"] in (given, [given])
    assert asked.get("dimensions") == more.get("dimensions")
    assert "somebody" not in json.dumps(provider.requests)


async def test_vectors_that_are_refused(client: aiohttp.ClientSession, world: World, provider: FakeProvider) -> None:
    async def refused(**body: Any) -> tuple[int, str | None]:
        async with client.post(VECTORS, json=body) as answer:
            error = (await answer.json())["error"]
            return answer.status, error["param"] or error["code"]

    assert await refused(model="mistral-vectors", input=[1, 2]) == (400, "input")
    assert (await refused(model="mistral-vectors", input="x", dimensions=2))[0] == 400
    assert await refused(model="openai-vectors", input="x", service_tier="priority") == (400, "service_tier")
    assert await refused(model="openai", input="x") == (400, "model")
    assert provider.requests == []
    provider.refuse = (200, {"object": "list", "data": [{"index": 0, "embedding": VECTOR}]}, {})
    assert await refused(model="openai-vectors", input="x") == (502, "provider_failed"), "it does not tell its usage"
    provider.refuse = (429, {"error": {"message": "slow down"}}, {"retry-after": "17"})
    assert await refused(model="openrouter-vectors", input="x") == (503, "provider_overloaded")
    await world.released()
    assert all(event["reserved_nusd"] == 0 for event in await world.events())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
async def test_anthropics_api_before_every_provider(
    client: aiohttp.ClientSession, world: World, name: str, stream: bool
) -> None:
    async with client.post(MESSAGES, json=ask(name, stream=stream)) as answer:
        body = await answer.read()
        assert answer.status == 200, body
    assert b"three" in body
    [event] = await world.until_events(1)
    assert (event["outcome"], event["reserved_nusd"], event["estimated"]) == ("ok", cost(3), False)


@pytest.mark.parametrize(
    ("name", "prompt", "estimated"), [("openai", 3, True), ("anthropic", PROMPT, True), ("gemini", PROMPT, False)]
)
async def test_a_stream_that_the_client_leaves_is_billed_for_what_came(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, name: str, prompt: int, estimated: bool
) -> None:
    # OpenAI tells no usage before the end: 14 bytes of prompt are 3 tokens at least, and each part is one.
    provider.stall_after = 4
    answer = await client.post(CHAT, json=ask(name, stream=True, max_tokens=8))
    seen = b""
    while b"two" not in seen:
        seen += await answer.content.readany()
    answer.close()
    [event] = await world.until_events(1)
    assert (event["outcome"], event["prompt_tokens"], event["estimated"]) == ("client_closed", prompt, estimated)
    assert 2 <= event["completion_tokens"] <= 4
    await world.released()


@pytest.mark.parametrize(
    ("refusal", "status", "code", "wait"),
    [
        ((401, {"error": {"message": f"Incorrect API key {PROVIDER_KEY}"}}, {}), 502, "provider_misconfigured", None),
        ((403, {"error": {"message": "no"}}, {}), 502, "provider_misconfigured", None),
        ((404, {"error": {"message": "no such model"}}, {}), 502, "provider_misconfigured", None),
        ((429, {"error": {"message": "slow down"}}, {"retry-after": "17"}), 503, "provider_overloaded", "17"),
        ((529, {"error": {"message": "overloaded"}}, {}), 503, "provider_overloaded", "5"),
        ((500, {"error": {"message": "oops"}}, {}), 502, "provider_failed", "5"),
        ((302, {}, {"location": "http://169.254.169.254/"}), 502, "provider_failed", "5"),
        ((400, {"error": {"message": f"`x` is wrong {PROVIDER_KEY}"}}, {}), 400, "provider_refused", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
async def test_errors_of_a_provider(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, name: str, stream: bool,
    refusal: tuple[int, Any, dict[str, str]], status: int, code: str, wait: str | None,
) -> None:  # fmt: skip
    provider.refuse = refusal
    async with client.post(CHAT, json=ask(name, stream=stream)) as answer:
        body = await answer.text()
        assert (answer.status, json.loads(body)["error"]["code"]) == (status, code), body
        assert answer.headers.get("retry-after") == wait
        # What only an operator can mend, no SDK repeats by itself.
        assert answer.headers.get("x-should-retry") == ("false" if code == "provider_misconfigured" else None)
    assert PROVIDER_KEY not in body
    assert len(provider.requests) == 1
    await world.released()
    assert all(event["reserved_nusd"] == 0 for event in await world.events())
    # Nothing is remembered against the provider.
    provider.refuse = None
    async with client.post(CHAT, json=ask(name)) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("fault", ["die_after", "end_after", "stall_after"])
@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
async def test_a_stream_that_breaks_is_an_error_and_billed_for_what_came(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, name: str, fault: str
) -> None:
    setattr(provider, fault, 4)
    await broken_off(client, world, CHAT, ask(name, stream=True, max_tokens=8))
    assert len(provider.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
async def test_garbage_and_silence(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, name: str, stream: bool
) -> None:
    provider.garbage = True
    async with client.post(CHAT, json=ask(name, stream=stream)) as answer:
        body = await answer.text()
        assert (answer.status, json.loads(body)["error"]["code"]) == (502, "provider_failed")
    assert "html" not in body
    if stream:
        provider.garbage, provider.stall_after = False, 0
        async with client.post(CHAT, json=ask(name, stream=True)) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (504, "provider_timeout")
    await world.released()


@pytest.mark.parametrize(
    "extra",
    [
        {"api_base": "http://169.254.169.254/"},
        {"service_tier": "priority"},
        {"mock_response": "hello"},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "http://127.0.0.1/x"}}]}]},
    ],
)
async def test_what_would_reach_litellm_or_cost_more_is_refused(
    client: aiohttp.ClientSession, world: World, provider: FakeProvider, extra: dict[str, Any]
) -> None:
    async with client.post(CHAT, json=ask("gemini") | extra) as answer:
        assert answer.status == 400, await answer.text()
    assert provider.requests == []
    await world.released()


async def test_other_endpoints_and_a_missing_key_are_said(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/responses", json={"model": "openai", "input": "x"}) as answer:
        assert answer.status == 400
        assert "does not speak /v1/responses" in (await answer.json())["error"]["message"]
    async with client.post(CHAT, json=ask("keyless")) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (502, "provider_misconfigured")
        assert (answer.headers["x-should-retry"], "retry-after" in answer.headers) == ("false", False)


async def test_a_request_waits_for_the_hosted_process_whose_log_has_no_key_and_one_form(
    world: World, redis_server: RedisServer, provider: FakeProvider, own_hosted: HostedProcess, tmp_path: Path
) -> None:
    world.models["openai"] = hosted_entry("openai", provider.url)
    await world.publish()
    own_hosted.kill()
    gateway = await RunningGateway(redis_server.url, tmp_path, hosted_url=own_hosted.url).start()
    headers = {"authorization": f"Bearer {KEY}"}
    try:
        async with aiohttp.ClientSession(gateway.url, headers=headers) as client:
            asking = asyncio.create_task(client.post(CHAT, json=ask("openai")))
            await asyncio.sleep(0.3)
            own_hosted.start()
            async with await asking as answer:
                assert answer.status == 200
            for stream in (False, True):
                async with client.post("/v1/messages", json=ask("openai", stream=stream)) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
            provider.refuse = (401, {"error": {"message": f"bad key {PROVIDER_KEY}"}}, {})
            async with client.post(CHAT, json=ask("openai")) as answer:
                assert answer.status == 502
    finally:
        await gateway.stop()
    assert "answered 401" in own_hosted.log()
    assert PROVIDER_KEY not in own_hosted.log()
    # Neither litellm's own lines, nor any in its own form.
    lines = own_hosted.log().splitlines()
    assert [line for line in lines if not line.startswith("timestamp=") or "LiteLLM" in line] == []
