"""What a client sends arrives at the worker, field by field; what the worker answers arrives as it is."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from support.fake_worker import WORKER_KEY, FakeWorker
from support.gateway_process import RunningGateway

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
FIELDS: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "logprobs": True,
    "top_logprobs": 2,
    "n": 1,
    "seed": -3,
    "stop": ["\n", "🥖"],
    "logit_bias": {"7": 1.5},
    "presence_penalty": 0.1,
    "frequency_penalty": 1e-9,
    "top_p": 0.30000000000000004,
    "top_k": 3,
    "min_p": 0.1,
    "reasoning_effort": "high",
    "separate_reasoning": False,
    "chat_template_kwargs": {"enable_thinking": True},
    "user": "u",
    "metadata": {"a": "b"},
    "unknown_to_us": {"nested": [None, 1, {"x": "é"}]},
}
MESSAGES = [
    {"role": "developer", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "See:"}, IMAGE], "name": "me"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "done"},
]


@pytest.mark.parametrize("stream", [False, True])
async def test_every_field_of_a_chat_arrives(
    gateway: RunningGateway, client: aiohttp.ClientSession, worker: FakeWorker, stream: bool
) -> None:
    body = {"model": "small", "messages": MESSAGES, "max_tokens": 2, "stream": stream} | FIELDS
    async with client.post("/v1/chat/completions", json=body) as answer:
        assert answer.status == 200
        await answer.read()
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}} if stream else {}
    assert worker.requests == [body | {"cache_salt": "salt-1"} | options]


async def test_a_whole_answer_keeps_what_the_gateway_does_not_know(
    gateway: RunningGateway, client: aiohttp.ClientSession, worker: FakeWorker
) -> None:
    body = {"model": "small", "messages": MESSAGES, "max_tokens": 2}

    def alter(document: dict[str, Any]) -> None:
        message = document["choices"][0]["message"]
        message |= {"reasoning_content": "Hm. é \u2028 🥖", "tool_calls": [{"id": "c", "index": 0}], "audio": None}
        document |= {"big": 2**70, "small": 1e-320, "nested": [[[]]]}

    worker.alter = alter
    key = {"authorization": f"Bearer {WORKER_KEY}"}
    async with client.post(worker.url + "/v1/chat/completions", json=body, headers=key) as answer:
        wanted = await answer.read()
    async with client.post("/v1/chat/completions", json=body) as answer:
        assert await answer.read() == wanted
