"""What providers say of their usage, read below litellm; and what becomes of a request for a cold model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.fake_provider import CACHED, PROMPT, WORDS, _anthropic, _embeddings, _gemini, _openai, _openai_text

from gateway.accounting.attempts import Usage
from gateway.hosted.readers import (
    AnthropicReader,
    EmbeddingsReader,
    GeminiReader,
    OpenAIReader,
    Reader,
    prompt_bytes,
)
from gateway.readmodel.cold_policy import WAIT, ColdPolicy, Step, next_step

APIS = [
    (OpenAIReader, _openai),
    (OpenAIReader, _openai_text),
    (AnthropicReader, _anthropic),
    (GeminiReader, _gemini),
]


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(("kind", "api"), APIS)
def test_a_stream_ends_with_the_providers_figures_however_it_is_cut(kind: type[Reader], api: object, step: int) -> None:
    reader = kind(40)
    sent = b"".join(api(WORDS[:5], "x"))  # type: ignore[operator]
    for start in range(0, len(sent), step):
        reader.feed(sent[start : start + step])
    assert reader.finished
    assert reader.usage == Usage(PROMPT, CACHED, 5)


@pytest.mark.parametrize(("kind", "api"), APIS)
def test_a_whole_answer(kind: type[Reader], api: object) -> None:
    assert kind(40).whole(json.dumps(api(WORDS[:5], None)).encode()) == Usage(PROMPT, CACHED, 5)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("kind", "api", "events", "usage"),
    [
        (OpenAIReader, _openai, 0, Usage()),
        (OpenAIReader, _openai, 3, Usage(10, 0, 3, True)),
        (OpenAIReader, _openai_text, 3, Usage(10, 0, 3, True)),
        (AnthropicReader, _anthropic, 1, Usage(PROMPT, CACHED, 1, True)),
        (AnthropicReader, _anthropic, 4, Usage(PROMPT, CACHED, 3, True)),
        (GeminiReader, _gemini, 3, Usage(PROMPT, CACHED, 3)),
    ],
)
def test_a_stream_that_is_cut_has_lower_bounds(kind: type[Reader], api: object, events: int, usage: Usage) -> None:
    reader = kind(40)
    for event in api(WORDS, "x")[:events]:  # type: ignore[operator]
        reader.feed(event)
    assert not reader.finished
    assert reader.usage == usage


@pytest.mark.parametrize("api", [_openai, _openai_text])
def test_fewer_answers_than_were_asked_for_are_whole_with_their_usage(api: Any) -> None:
    *before, usage, _end = api(WORDS[:5], "x")
    reader = OpenAIReader(40, choices=3)
    for event in before:
        reader.feed(event)
    assert not reader.finished  # another one may follow
    reader.feed(usage)
    assert reader.finished
    assert OpenAIReader(40, choices=3).whole(json.dumps(api(WORDS[:5], None)).encode()) == Usage(PROMPT, CACHED, 5)


def test_an_answer_that_has_begun_and_not_ended_is_not_whole_though_usage_came() -> None:
    choices = [{"index": 0, "finish_reason": "stop"}, {"index": 1, "finish_reason": None}]
    body = {"choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    with pytest.raises(ValueError, match="not finished"):
        OpenAIReader(40, choices=3).whole(json.dumps(body).encode())


@pytest.mark.parametrize("kind", [OpenAIReader, AnthropicReader, GeminiReader])
@pytest.mark.parametrize("event", [b"data: {not json}\n\n", b"data: []\n\n", b'data: {"error": {"message": "x"}}\n\n'])
def test_garbage_and_errors_are_failures(kind: type[Reader], event: bytes) -> None:
    reader = kind(40)
    reader.feed(event)
    assert reader.failed
    assert not reader.finished


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices": [{"finish_reason": null}]}', b'{"type": "message"}'])
@pytest.mark.parametrize("kind", [OpenAIReader, AnthropicReader, GeminiReader])
def test_what_is_no_finished_answer_is_refused(kind: type[Reader], body: bytes) -> None:
    with pytest.raises(ValueError, match="the answer"):
        kind(40).whole(body)


@pytest.mark.parametrize("given", ["one", ["one", "two"]])
def test_vectors_and_what_they_have_used(given: object) -> None:
    asked = len(given) if isinstance(given, list) else 1
    body = _embeddings({"input": given})
    assert EmbeddingsReader(0, asked).whole(json.dumps(body).encode()) == Usage(PROMPT)
    for spoilt in (body | {"usage": None}, body | {"usage": {"prompt_tokens": -1}}, body | {"data": []}):
        with pytest.raises(ValueError, match="the answer"):
            EmbeddingsReader(0, asked).whole(json.dumps(spoilt).encode())


@pytest.mark.parametrize(("prompt", "size"), [("é", 2), (["ab", "c"], 3), ([7, 8], 8), ([[7], [8, 9]], 12), (None, 0)])
def test_a_text_prompt_counts_whole_and_a_token_id_as_a_token(prompt: object, size: int) -> None:
    assert prompt_bytes({} if prompt is None else {"prompt": prompt}) == size


def test_only_text_counts_as_prompt() -> None:
    parts = [{"type": "text", "text": "é"}, {"type": "image_url", "image_url": {"url": "data:xxxx"}}]
    assert prompt_bytes({"messages": [{"content": "abc"}, {"content": parts}, {"content": None}]}) == 5


@pytest.mark.parametrize(
    ("policy", "cold", "waited_s", "step"),
    [
        (WAIT, True, 99.0, Step.WAIT),
        (ColdPolicy("reject"), True, 0.0, Step.REJECT),
        (ColdPolicy("reject"), False, 0.0, Step.WAIT),
        (ColdPolicy("fallback", 0, "gpt"), True, 0.0, Step.FALL_BACK),
        (ColdPolicy("fallback", 5, "gpt"), True, 4.9, Step.WAIT_A_LITTLE),
        (ColdPolicy("fallback", 5, "gpt"), True, 5.0, Step.FALL_BACK),
        (ColdPolicy("fallback", 5, "gpt"), False, 9.0, Step.WAIT),
    ],
)
def test_what_becomes_of_a_request(policy: ColdPolicy, cold: bool, waited_s: float, step: Step) -> None:
    assert next_step(policy, cold=cold, waited_s=waited_s) is step
