"""The official `anthropic` SDK, sync and async, against a real SGLang behind gateway and hosted process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from support.real_service import ASLEEP_MODEL, CHAT_MODEL, EMBEDDING_MODEL, POOR_KEY, RealService

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
TOOL: Any = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "strict": True,
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(service: RealService) -> Iterator[Anthropic]:
    with Anthropic(base_url=service.url, api_key=service.key, max_retries=0, timeout=60) as made:
        yield made


def test_a_message(service: RealService, client: Anthropic) -> None:
    answer, event = service.billed(
        lambda: client.messages.create(
            model=CHAT_MODEL,
            messages=QUESTION,
            system="You are a helpful AI assistant.",
            max_tokens=20,
            extra_body={"temperature": 0},
        )
    )
    assert "Paris" in answer.content[0].text
    assert answer.stop_reason == "end_turn"
    usage = answer.usage
    assert event["completion_tokens"] == usage.output_tokens
    assert event["prompt_tokens"] == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_message_as_a_stream(service: RealService, client: Anthropic) -> None:
    def ask() -> Any:
        with client.messages.stream(
            model=CHAT_MODEL, messages=QUESTION, max_tokens=20, extra_body={"temperature": 0}
        ) as stream:
            text = "".join(stream.text_stream)
            return text, stream.get_final_message()

    (text, message), event = service.billed(ask)
    assert "Paris" in text
    assert message.stop_reason == "end_turn"
    assert event["completion_tokens"] == message.usage.output_tokens


def test_a_forced_tool_use(client: Anthropic) -> None:
    answer = client.messages.create(
        model=CHAT_MODEL, messages=QUESTION, tools=[TOOL], tool_choice={"type": "tool", "name": "get_weather"},
        max_tokens=60, extra_body={"temperature": 0},
    )  # fmt: skip
    (use,) = (part for part in answer.content if part.type == "tool_use")
    assert use.name == "get_weather"
    assert use.input["city"] in ("Paris", "Rome")
    assert answer.stop_reason in ("tool_use", "max_tokens")


def test_errors_have_the_sdks_classes(client: Anthropic) -> None:
    def ask(key: Any = client.api_key, model: str = CHAT_MODEL, **options: Any) -> None:
        asking: Any = {"model": model, "messages": QUESTION, "max_tokens": 4} | options
        client.with_options(api_key=key).messages.create(**asking)

    with pytest.raises(anthropic.AuthenticationError):
        ask(key="hyd-wrong")
    with pytest.raises(anthropic.NotFoundError):
        ask(model="nope")
    with pytest.raises(anthropic.BadRequestError, match="does not generate"):
        ask(model=EMBEDDING_MODEL)
    with pytest.raises(anthropic.BadRequestError):
        ask(max_tokens=0)
    with pytest.raises(anthropic.RateLimitError):
        ask(key=POOR_KEY)
    with pytest.raises(anthropic.APITimeoutError):
        client.with_options(timeout=1).messages.create(model=ASLEEP_MODEL, messages=QUESTION, max_tokens=4)


async def test_the_async_client(service: RealService) -> None:
    async with AsyncAnthropic(base_url=service.url, api_key=service.key, max_retries=0) as client:
        answer = await client.messages.create(
            model=CHAT_MODEL, messages=QUESTION, max_tokens=20, extra_body={"temperature": 0}
        )
        assert "Paris" in answer.content[0].text  # type: ignore[union-attr]
        async with client.messages.stream(model=CHAT_MODEL, messages=QUESTION, max_tokens=20) as stream:
            assert [text async for text in stream.text_stream]
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="nope", messages=QUESTION, max_tokens=4)
