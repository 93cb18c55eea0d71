"""What a client gets of a stream is what real SGLang would have sent it."""

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stack import SERVING, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NAME = "through"
TRIES = 5
"""A busy SGLang may put two tokens into one event; two calls of a few are alike all the same."""


@pytest.fixture(scope="module")
def model_id(stack: Stack, smollm2: Path) -> Iterator[str]:
    """SmolLM2 on one worker."""
    model = stack.register(NAME, smollm2, slo_ttft_ms=60_000, keep_alive_s=600)
    yield model
    stack.end(model)


def _events(address: tuple[str, int], key: str, body: dict[str, object]) -> list[bytes]:
    """The events of a stream, less what differs with every call."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(body),
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    response = connection.getresponse()
    received = response.read()
    connection.close()
    assert response.status == 200, received
    received = re.sub(rb'"id":"[^"]*"', b'"id":""', re.sub(rb'"created":\d+', b'"created":0', received))
    events = [event for event in received.split(b"\n\n") if event and not event.startswith(b":")]
    # In which order the answers of one request take turns is chance; each answer's own events keep theirs.
    return sorted(events, key=lambda event: _index(event))


def _index(event: bytes) -> int:
    found = re.search(rb'"index":(\d+)', event)
    return int(found[1]) if found else 1_000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stream_options": {"include_usage": True}},
        {"logprobs": True, "top_logprobs": 2},
        {"n": 2, "seed": 1},
        {"stop": ["the"]},
    ],
    ids=["plain", "usage", "logprobs", "two answers", "stop"],
)
def test_a_stream_is_what_sglang_itself_sends(stack: Stack, model_id: str, options: dict[str, object]) -> None:
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 12,
        "temperature": 0,
        "stream": True,
        **options,
    }
    gateway = ("127.0.0.1", stack.services.ports.gateway)
    _events(gateway, stack.api_key, body)  # the prompt is in the prefix cache now
    group = stack.group_in(model_id, *SERVING)
    assert group is not None
    salted = {**body, "cache_salt": stack.salt()}
    for _ in range(TRIES):
        straight = _events(("127.0.0.1", group.stages[0].port), group.api_key, salted)
        through = _events(gateway, stack.api_key, body)
        if through == straight:
            break
    assert through == straight
