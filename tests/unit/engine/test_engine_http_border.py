"""The hooks at SGLang's HTTP border: running usage of responses, refusals and failures, token ids, names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from engine.sglang_plugin import inputs, responses, signals


def output(prompt: int, completion: int, cached: int = 0) -> SimpleNamespace:
    meta = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}
    return SimpleNamespace(last_output={"text": "x", "meta_info": meta})


async def outputs(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield item


async def sglang(serving: Any, request: Any, sampling: Any, given: AsyncIterator[Any]) -> AsyncIterator[str]:
    """As SGLang's generator: an opening, events for each output, and what went wrong told in the last one."""
    yield "opening"
    try:
        async for context in given:
            yield f"delta {context.last_output['meta_info']['completion_tokens']}"
            yield "more"
    except Exception as error:  # noqa: BLE001
        yield f"failed {error}"
        return
    yield "completed"


async def told(monkeypatch: pytest.MonkeyPatch, *items: Any, hydrant: bool = True) -> list[str]:
    monkeypatch.setenv(signals.EVENTS_VARIABLE, "x") if hydrant else monkeypatch.delenv(signals.EVENTS_VARIABLE, False)
    return [event async for event in responses.tell_running_usage(sglang, None, None, None, outputs(*items))]


async def test_usage_is_told_before_the_events_it_belongs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    events = await told(monkeypatch, output(7, 1, 3), output(7, 4, 3))
    assert [event.split("{")[0] for event in events] == [
        "opening", ": hydrant-usage ", "delta 1", "more", ": hydrant-usage ", "delta 4", "more", "completed",
    ]  # fmt: skip
    usage = json.loads(events[4].removeprefix(": hydrant-usage "))
    assert usage == {"prompt_tokens": 7, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}


async def test_without_hydrant_the_stream_is_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await told(monkeypatch, output(7, 1), hydrant=False) == ["opening", "delta 1", "more", "completed"]


async def test_a_refusal_is_no_failure_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    opening, error = await told(monkeypatch, ValueError("too long"))
    assert opening == "opening"
    assert json.loads(error.split("data: ")[1])["error"]["code"] == 400
    assert "failed gone" in await told(monkeypatch, RuntimeError("gone"))
    assert "failed late" in await told(monkeypatch, output(1, 1), ValueError("late")), "no refusal once it has begun"


async def test_a_failure_of_the_engine_is_not_the_requests_fault() -> None:
    class Full(Exception):
        status_code = 503

    async def raises(serving: Any, error: Exception) -> None:
        raise error

    serving = SimpleNamespace(create_error_response=lambda message, err_type, status_code: (message, status_code))
    assert await responses.tell_failures_apart(raises, serving, Full("full")) == ("full", 503)
    assert await responses.tell_failures_apart(raises, serving, KeyError("x")) == ("'x'", 500)


def test_as_many_tokens_as_were_asked_for() -> None:
    bounded, free = SimpleNamespace(max_output_tokens=1), SimpleNamespace(max_output_tokens=None)
    assert responses.all_tokens({"max_new_tokens": -1}, bounded)["max_new_tokens"] == 1
    assert responses.all_tokens({"max_new_tokens": None}, free)["max_new_tokens"] is None


@pytest.mark.parametrize("ids", [[100], [5, 100], [-1], [10**30]])
def test_a_token_outside_the_vocabulary_never_reaches_the_scheduler(ids: list[int]) -> None:
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=100))
    request = SimpleNamespace(input_ids=ids)
    with pytest.raises(ValueError, match="ids from 0 to 99"):
        inputs.only_known_tokens(lambda *args: args, manager, request, ids)
    assert inputs.only_known_tokens(lambda *args: args, manager, request, [0, 99])[2] == [0, 99]


@dataclass
class GenerateReqInput:
    """SGLang's own name for a request to generate."""

    input_ids: list[int]


def test_an_embedding_model_does_not_generate() -> None:
    asked = GenerateReqInput([1])
    with pytest.raises(ValueError, match="/v1/embeddings"):
        inputs.only_what_it_does(lambda *args: args, SimpleNamespace(is_generation=False), asked, [1])
    assert inputs.only_what_it_does(lambda *args: args, SimpleNamespace(is_generation=True), asked, [1])
    embedding = SimpleNamespace(input_ids=[1])
    assert inputs.only_what_it_does(lambda *args: args, SimpleNamespace(is_generation=False), embedding, [1])


def test_no_answer_tells_where_the_model_lies() -> None:
    manager = SimpleNamespace(served_model_name="m", model_config=SimpleNamespace(model_path="/dev/shm/x"))

    def refuses(manager: Any) -> None:
        raise ValueError("Model '/dev/shm/x' does not")

    with pytest.raises(ValueError, match="Model 'm' does not"):
        inputs.without_path(refuses, manager)
    answer = inputs.named_as_served(SimpleNamespace(model="/dev/shm/x"), SimpleNamespace(tokenizer_manager=manager))
    assert answer.model == "m"
