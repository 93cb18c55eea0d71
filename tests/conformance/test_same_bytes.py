"""A client gets, byte for byte, what SGLang itself answers to the same body."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any

import pytest
from support.manifest import API_KEY
from support.real_service import CHAT_MODEL, EMBEDDING_MODEL, RealService

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# One text each: two may be computed together or apart, which the last digits of vectors and log probabilities show, and
# a stream shows which of them comes first.
MESSAGES = [{"role": "user", "content": "Wie heißt die Hauptstadt von Frankreich? 🥖"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FORM = {"name": "x", "schema": SCHEMA, "strict": True}
TOOL = {"type": "function", "function": {"name": "see", "parameters": SCHEMA, "strict": True}}
FORCED = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "see"}}}
CHAT = {"model": CHAT_MODEL, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
TEXT = {"model": CHAT_MODEL, "prompt": "Once", "max_tokens": 3, "temperature": 0}
RESPONSE = {"model": CHAT_MODEL, "input": MESSAGES, "max_output_tokens": 6, "temperature": 0, "store": False}
VECTORS = {"model": EMBEDDING_MODEL, "input": "été 🥖"}
STREAM = {"stream": True}
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", CHAT),
    ("chat/completions", CHAT | {"logprobs": True, "top_logprobs": 3, "user": "u", "metadata": {"a": "b"}}),
    ("chat/completions", CHAT | {"n": 2, "seed": 5}),
    ("chat/completions", CHAT | {"stop": ["Paris", "."], "presence_penalty": 0.5, "logit_bias": {"42": -5}}),
    ("chat/completions", CHAT | FORCED),
    ("chat/completions", CHAT | {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False}),
    ("chat/completions", CHAT | {"response_format": {"type": "json_schema", "json_schema": FORM}}),
    ("chat/completions", CHAT | {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}),
    ("chat/completions", CHAT | STREAM),
    ("chat/completions", CHAT | WITH_USAGE),
    ("chat/completions", CHAT | WITH_USAGE | {"logprobs": True}),
    ("chat/completions", CHAT | STREAM | FORCED),
    ("completions", TEXT | {"echo": True, "logprobs": 1}),
    ("completions", TEXT | STREAM),
    ("embeddings", VECTORS),
    ("embeddings", VECTORS | {"encoding_format": "base64"}),
    ("responses", RESPONSE | {"instructions": "Be short.", "metadata": {"a": "b"}}),
    ("responses", RESPONSE | STREAM),
    ("responses", RESPONSE | STREAM | {"tools": [{"type": "function", "name": "see", "parameters": SCHEMA}]}),
]  # fmt: skip
# SGLang puts into one event of a stream whatever tokens have come when it looks: now and then they are two.
TRIES = 5
_DRAWN = re.compile(rb'"(id|item_id|call_id|created|created_at)":\s*("[^"]*"|\d+)')
_COMMENT = re.compile(rb": hydrant-usage .*\n\n")


def ask(url: str, key: str, path: str, body: dict[str, Any]) -> bytes:
    """The answer, but for what is drawn anew for each."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}/v1/{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        raw: bytes = answer.read()
    return _DRAWN.sub(rb'"\1":"drawn"', _COMMENT.sub(b"", raw))


@pytest.mark.parametrize(("path", "body"), BODIES, ids=[f"{at}-{path}" for at, (path, _) in enumerate(BODIES)])
def test_the_same_bytes(service: RealService, path: str, body: dict[str, Any]) -> None:
    # Once before, so that both find the prompt in the prefix cache, which is the tenant's own.
    ask(service.url, service.key, path, body)
    for _ in range(TRIES):
        direct = ask(service.engines[body["model"]], API_KEY, path, body | {"cache_salt": "salt-1"})
        through = ask(service.url, service.key, path, body)
        if through == direct:
            break
    assert through == direct
    assert len(direct) > 100
