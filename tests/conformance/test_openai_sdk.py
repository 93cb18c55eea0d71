"""The official `openai` SDK, sync and async, does everything against a real SGLang behind a real gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from support.manifest import API_KEY
from support.real_service import (
    ASLEEP_MODEL,
    CHAT_MODEL,
    EMBEDDING_MODEL,
    LIMITED_KEY,
    NARROW_KEY,
    POOR_KEY,
    RealService,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
FUNCTION = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
# Without `strict` SGLang holds the model to the form of a call, but not to the schema of its arguments.
TOOL: Any = {"type": "function", "function": FUNCTION | {"strict": True}}


class Place(BaseModel):
    """What a structured answer must be."""

    capital: bool
    continent: Any = None


@pytest.fixture(scope="module")
def client(service: RealService) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0, timeout=60) as made:
        yield made


def test_chat(service: RealService, client: OpenAI) -> None:
    answer, event = service.billed(
        lambda: client.chat.completions.create(
            model=CHAT_MODEL, messages=QUESTION, temperature=0, max_tokens=20, seed=7, stop=["Rome"], logprobs=True,
            top_logprobs=2,
        )
    )  # fmt: skip
    choice = answer.choices[0]
    assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop"
    assert len(choice.logprobs.content[0].top_logprobs) == 2
    assert (event["prompt_tokens"], event["completion_tokens"]) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )


def test_several_answers_and_a_stop(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="my-alias", messages=QUESTION, n=2, temperature=0, max_tokens=20, stop=["Paris"]
    )
    assert len(answer.choices) == 2
    assert all("Paris" not in (choice.message.content or "") for choice in answer.choices)


def test_chat_as_a_stream(service: RealService, client: OpenAI) -> None:
    def ask() -> list[Any]:
        options: Any = {"include_usage": True}
        return list(
            client.chat.completions.create(
                model=CHAT_MODEL, messages=QUESTION, temperature=0, stream=True, stream_options=options
            )
        )

    chunks, event = service.billed(ask)
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage.completion_tokens == event["completion_tokens"]
    assert all(chunk.usage is None for chunk in chunks[:-1]), "running usage is for the bill only"


def test_a_forced_tool_call(client: OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.completions.create(
        model=CHAT_MODEL, messages=QUESTION, tools=[TOOL], tool_choice=choice, temperature=0, max_tokens=60
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.function.name == "get_weather"  # type: ignore[union-attr]
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")  # type: ignore[union-attr]
    # This small model fills the rest with white space, which the grammar of a JSON list allows.
    assert answer.choices[0].finish_reason in ("tool_calls", "length")
    back: Any = [
        *QUESTION,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "It rains."},
    ]
    assert client.chat.completions.create(model=CHAT_MODEL, messages=back, tools=[TOOL], max_tokens=4).choices


def test_a_structured_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT_MODEL,
        messages=QUESTION,
        max_tokens=60,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "place",
                "strict": True,
                "schema": {"type": "object", "properties": {"capital": {"type": "boolean"}}, "required": ["capital"],
                           "additionalProperties": False},
            },
        },
    )  # fmt: skip
    assert Place.model_validate_json(answer.choices[0].message.content or "")


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model=CHAT_MODEL, prompt=["One", "Two"], max_tokens=3, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


def test_embeddings(service: RealService, client: OpenAI) -> None:
    # The SDK asks for base64 and decodes it, unless it is told otherwise.
    answer, event = service.billed(lambda: client.embeddings.create(model=EMBEDDING_MODEL, input=["a cat", "a dog"]))
    plain = client.embeddings.create(model=EMBEDDING_MODEL, input="a cat", encoding_format="float")
    assert answer.model == EMBEDDING_MODEL
    assert [len(one.embedding) for one in answer.data] == [64, 64]
    assert answer.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-4)
    assert answer.data[0].embedding != answer.data[1].embedding
    assert event["prompt_tokens"] == answer.usage.prompt_tokens == answer.usage.total_tokens
    assert (event["completion_tokens"], event["outcome"]) == (0, "ok")


def test_embeddings_of_token_ids(client: OpenAI) -> None:
    assert len(client.embeddings.create(model=EMBEDDING_MODEL, input=[[5, 6], [7]]).data) == 2
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        client.embeddings.create(model=EMBEDDING_MODEL, input=[[5, 99_999_999]])
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        client.completions.create(model=CHAT_MODEL, prompt=[99_999_999], max_tokens=1)
    assert client.embeddings.create(model=EMBEDDING_MODEL, input="still alive").data


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/generate"])
def test_an_embedding_engine_outlives_being_asked_to_generate(service: RealService, client: OpenAI, path: str) -> None:
    """The gateway sends it no such request; whoever reaches its port might."""
    body = {"model": EMBEDDING_MODEL, "messages": QUESTION, "prompt": "a", "text": "a", "max_tokens": 2}
    key = {"authorization": f"Bearer {API_KEY}"}
    answer = httpx.post(service.engines[EMBEDDING_MODEL] + path, json=body, headers=key, timeout=60)
    assert answer.status_code == 400, answer.text
    assert "embeddings only" in answer.text
    assert client.embeddings.create(model=EMBEDDING_MODEL, input="still alive").data


def test_dimensions_that_a_model_does_not_have(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=EMBEDDING_MODEL) as caught:
        client.embeddings.create(model=EMBEDDING_MODEL, input="a", dimensions=8)
    assert "/dev/shm" not in str(caught.value)


def test_a_response(service: RealService, client: OpenAI) -> None:
    answer, event = service.billed(
        lambda: client.responses.create(
            model=CHAT_MODEL, instructions="Answer in one sentence.", input="What is the capital of France?",
            temperature=0, max_output_tokens=16,
        )
    )  # fmt: skip
    assert "Paris" in answer.output_text
    assert answer.store is False  # type: ignore[attr-defined]
    counts = event["prompt_tokens"], event["cached_tokens"], event["completion_tokens"]
    usage = answer.usage
    assert counts == (usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens)


def test_a_response_as_a_stream(service: RealService, client: OpenAI) -> None:
    def ask() -> list[Any]:
        question = "What is the capital of France?"
        return list(client.responses.create(model=CHAT_MODEL, input=question, temperature=0, stream=True))

    events, bill = service.billed(ask)
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text
    assert "Paris" in text
    assert bill["completion_tokens"] == events[-1].response.usage.output_tokens


def test_a_response_that_its_client_leaves_is_billed_for_what_came(service: RealService, client: OpenAI) -> None:
    def leave() -> int:
        question = "Write a long story about a lighthouse."
        seen = 0
        with client.responses.create(model=CHAT_MODEL, input=question, max_output_tokens=1500, stream=True) as stream:
            for event in stream:
                seen += event.type == "response.output_text.delta"
                if seen == 10:
                    return seen
        raise AssertionError("the story ended early")

    seen, event = service.billed(leave)
    assert event["outcome"] == "client_closed"
    assert seen <= event["completion_tokens"] < 200


def test_as_many_output_tokens_as_allowed(client: OpenAI) -> None:
    for bound in (1, 2, 5):
        answer = client.responses.create(model=CHAT_MODEL, input="Tell me a story.", max_output_tokens=bound)
        assert answer.usage is not None
        assert answer.usage.output_tokens == bound
        assert answer.status == "incomplete"


def test_a_conversation_of_responses_with_a_tool(client: OpenAI) -> None:
    tool: Any = {"type": "function", "strict": True, **FUNCTION}
    given: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = client.responses.create(
        model=CHAT_MODEL, input=given, tools=[tool], tool_choice={"type": "function", "name": "get_weather"},
        temperature=0, max_output_tokens=60,
    )  # fmt: skip
    (call,) = (item for item in first.output if item.type == "function_call")
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    given += [call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}]
    assert client.responses.create(model=CHAT_MODEL, input=given, tools=[tool], max_output_tokens=8).output


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_does_not_fit(client: OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="context length"):
        client.responses.create(model=CHAT_MODEL, input="a " * 3000, stream=stream)


def test_what_needs_storage_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="nothing is stored"):
        client.responses.create(model=CHAT_MODEL, input="x", previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError, match="nothing is stored"):
        client.responses.create(model=CHAT_MODEL, input="x", background=True)
    for ask in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="not stored"):
            ask("resp_1")  # type: ignore[operator]


def test_models(client: OpenAI) -> None:
    assert {CHAT_MODEL, EMBEDDING_MODEL, "my-alias"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(CHAT_MODEL).owned_by == "hydrant"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_errors_have_the_sdks_classes(client: OpenAI) -> None:
    def ask(key: str = client.api_key, model: str = CHAT_MODEL, **options: Any) -> None:
        client.with_options(api_key=key).chat.completions.create(model=model, messages=QUESTION, **options)

    with pytest.raises(openai.AuthenticationError):
        ask(key="hyd-wrong")
    with pytest.raises(openai.PermissionDeniedError):
        ask(key=NARROW_KEY)
    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="nope")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(n=0)
    assert wrong.value.param == "n"
    ask(key=LIMITED_KEY, max_tokens=1)
    with pytest.raises(openai.RateLimitError) as limited:
        ask(key=LIMITED_KEY, max_tokens=1)
    assert limited.value.code == "rate_limit_exceeded"
    assert int(limited.value.response.headers["retry-after"]) >= 1
    with pytest.raises(openai.RateLimitError) as poor:
        ask(key=POOR_KEY)
    assert poor.value.code == "insufficient_quota"


def test_a_model_that_sleeps_longer_than_the_client_waits(client: OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1).chat.completions.create(model=ASLEEP_MODEL, messages=QUESTION)


def test_a_503_is_tried_again_by_the_sdk(service: RealService) -> None:
    refused: list[int] = []

    def heal(response: httpx.Response) -> None:
        if response.status_code == 503:
            refused.append(int(response.headers["retry-after"]))
            service.in_world(lambda world: world.redis.hset("hyd:balance", mapping=balances))

    # As after a loss of Redis, until the ledger has written balances anew.
    balances = service.in_world(lambda world: world.redis.hgetall("hyd:balance"))
    service.in_world(lambda world: world.redis.delete("hyd:balance"))
    http = httpx.Client(event_hooks={"response": [heal]})
    with OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=2, http_client=http) as client:
        assert client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, max_tokens=1).choices
    assert len(refused) == 1


async def test_the_async_client(service: RealService) -> None:
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=CHAT_MODEL, messages=QUESTION, temperature=0, stream=True, max_tokens=16
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert "Paris" in text
        assert (await client.embeddings.create(model=EMBEDDING_MODEL, input="a")).data
        async with client.responses.stream(model=CHAT_MODEL, input=QUESTION[0]["content"], temperature=0) as events:
            async for _ in events:
                pass
            assert "Paris" in (await events.get_final_response()).output_text
        assert [model.id async for model in client.models.list()]
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="nope", input="x")
