"""A stand-in of hosted providers' APIs: OpenAI's, Anthropic's and Gemini's, over real HTTP. Not part of the product.

It answers "one two three ..." with as many words as the request allows tokens, or with the same vector for each text,
and tells usage as that API does.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from support.leaks import plant

PROVIDER_KEY = plant("a provider's key", "sk-provider-planted-secret")
PROMPT, CACHED = 11, 4
VECTOR = [0.5, -0.25]
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


class FakeProvider:
    """One HTTP server on a free port. Behaviour is set by attributes; what was asked is in `requests`."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.closed = 0
        # Answer with this status, body and headers instead.
        self.refuse: tuple[int, Any, dict[str, str]] | None = None
        # Of a stream: break off, or end in good order, after so many words; or wait there for ever.
        self.die_after: int | None = None
        self.end_after: int | None = None
        self.stall_after: int | None = None
        self.garbage = False
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> FakeProvider:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        path = "/" + request.match_info["path"]
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.keys.append(request.headers.get("x-api-key") or request.headers.get("x-goog-api-key") or bearer)
        self.requests.append(body | {"path": path})
        if self.refuse is not None:
            status, document, headers = self.refuse
            return web.json_response(document, status=status, headers=headers)
        if self.garbage:
            return web.Response(body=b"\x00<html>not it", content_type="text/html")
        if path.endswith("/embeddings"):
            return web.json_response(_embeddings(body))
        api = _anthropic if path.endswith("/v1/messages") else _gemini if ":" in path else _openai
        if path.endswith("/completions") and not path.endswith("/chat/completions"):
            api = _openai_text
        allowed = body.get("max_tokens") or body.get("max_completion_tokens")
        allowed = allowed or body.get("generationConfig", {}).get("max_output_tokens", 3)
        words = WORDS[:allowed]
        if not (body.get("stream") or "streamGenerateContent" in path):
            return web.json_response(api(words, None))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for position, event in enumerate(api(words, body.get("model", ""))):
                # The first event of Anthropic's has no word.
                if position == self.end_after:
                    return response
                if position == self.die_after:
                    assert request.transport is not None
                    request.transport.abort()
                if position == self.stall_after:
                    await asyncio.sleep(60)
                await response.write(event)
                await asyncio.sleep(0.005)
        except (asyncio.CancelledError, ConnectionResetError):
            self.closed += 1
            raise
        return response


def _data(document: Any, name: str = "", end: str = "\n\n") -> bytes:
    return ((f"event: {name}\n" if name else "") + "data: " + json.dumps(document) + end).encode()


def _openai(words: list[str], model: str | None) -> Any:
    usage = {"prompt_tokens": PROMPT, "completion_tokens": len(words), "total_tokens": PROMPT + len(words),
             "prompt_tokens_details": {"cached_tokens": CACHED}}  # fmt: skip
    head: dict[str, Any] = {
        "id": "chatcmpl-1",
        "created": 1700000000,
        "model": "provider-name",
        "service_tier": "default",
    }
    if model is None:
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        return head | {"object": "chat.completion", "choices": [choice], "usage": usage}
    head["object"] = "chat.completion.chunk"

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        return _data(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    texts = [chunk({"role": "assistant", "content": word if not at else " " + word}) for at, word in enumerate(words)]
    return [*texts, chunk({}, "length"), _data(head | {"choices": [], "usage": usage}), b"data: [DONE]\n\n"]


def _openai_text(words: list[str], model: str | None) -> Any:
    usage = {"prompt_tokens": PROMPT, "completion_tokens": len(words), "total_tokens": PROMPT + len(words),
             "prompt_tokens_details": {"cached_tokens": CACHED}}  # fmt: skip
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1700000000, "model": "provider-name"}

    def choice(text: str, reason: str | None) -> dict[str, Any]:
        return head | {"choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]}

    if model is None:
        return choice(" ".join(words), "length") | {"usage": usage}
    texts = [_data(choice(word if not at else " " + word, None)) for at, word in enumerate(words)]
    return [
        *(*texts, _data(choice("", "length"))),
        *(_data(head | {"choices": [], "usage": usage}), b"data: [DONE]\n\n"),
    ]


def _embeddings(body: dict[str, Any]) -> Any:
    given = body["input"]
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    data = [{"object": "embedding", "index": at, "embedding": VECTOR} for at in reversed(range(count))]
    usage = {"prompt_tokens": PROMPT, "total_tokens": PROMPT}
    return {"object": "list", "data": data, "model": "provider-name", "usage": usage}


def _anthropic(words: list[str], model: str | None) -> Any:
    before = {"input_tokens": PROMPT - CACHED, "cache_read_input_tokens": CACHED, "cache_creation_input_tokens": 0}
    message: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": "provider-name",
                               "stop_sequence": None}  # fmt: skip
    if model is None:
        content = [{"type": "text", "text": " ".join(words)}]
        done = {"content": content, "stop_reason": "max_tokens", "usage": before | {"output_tokens": len(words)}}
        return message | done
    start = message | {"content": [], "stop_reason": None, "usage": before | {"output_tokens": 1}}
    texts = [
        _data(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word if not at else " " + word},
            },
            "content_block_delta",
        )
        for at, word in enumerate(words)
    ]
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    end = {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None}}
    return [
        _data({"type": "message_start", "message": start}, "message_start")
        + _data(block, "content_block_start"),
        *texts,
        _data({"type": "content_block_stop", "index": 0}, "content_block_stop"),
        _data(end | {"usage": {"output_tokens": len(words)}}, "message_delta"),
        _data({"type": "message_stop"}, "message_stop"),
    ]  # fmt: skip


def _gemini(words: list[str], model: str | None) -> Any:
    def part(text: str, count: int, reason: str | None) -> dict[str, Any]:
        candidate = {"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}
        if reason:
            candidate["finishReason"] = reason
        usage = {"promptTokenCount": PROMPT, "cachedContentTokenCount": CACHED, "candidatesTokenCount": count,
                 "totalTokenCount": PROMPT + count}  # fmt: skip
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "provider-name"}

    if model is None:
        return part(" ".join(words), len(words), "MAX_TOKENS")
    last = len(words)
    return [
        _data(part(word if at == 1 else " " + word, at, "MAX_TOKENS" if at == last else None), end="\r\n\r\n")
        for at, word in enumerate(words, 1)
    ]
