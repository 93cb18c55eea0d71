"""A small worker that speaks SGLang's wire format, for tests of what stands in front of it. Not part of the product.

It answers with the words "one two three ..." up to `max_tokens`, and writes its chunks exactly as SGLang 0.5.23 does:
plain chat deltas without a `usage` key unless running usage was asked for, everything else with `"usage":null`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from support.leaks import plant

WORKER_KEY = plant("a worker's key", "worker-key-of-tests")
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
PROMPT_TOKENS = 7


class FakeWorker:
    """One HTTP server on a free port. Behaviour is set by attributes; what happened is in `requests` and `aborted`."""

    def __init__(self, api_key: str = WORKER_KEY) -> None:
        self.api_key = api_key
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.aborted = 0
        self.completed = 0
        self.active = 0
        self.most_active = 0
        # Seconds before the first token and between tokens.
        self.first_token_delay = 0.0
        self.token_delay = 0.0
        # Break the connection off after this many token chunks (-1: before anything at all), None: never.
        self.die_after: int | None = None
        # Changes a plain answer's document before it is sent.
        self.alter: Callable[[dict[str, Any]], None] | None = None
        # End a stream here in good order, but without finish reason and end mark: what SGLang does when a stage dies.
        self.end_after: int | None = None
        # Whether streams of responses carry the plugin's running usage.
        self.tells_usage = True
        # Prompt and answer together may have so many tokens.
        self.context = 2048
        # Answer with this status and body instead.
        self.refuse: tuple[int, dict[str, Any]] | None = None
        # Waits for this before it answers.
        self.gate: asyncio.Event | None = None
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> FakeWorker:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_post("/v1/responses", self._responses)
        # SGLang's generation stops when its client leaves: the handler must be cancelled.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(body := await request.json())
        if self.refuse is not None:
            return web.json_response(self.refuse[1], status=self.refuse[0])
        count = len(body["input"]) if isinstance(body["input"], list) else 1
        data = [{"embedding": [0.25, -1.5], "index": index, "object": "embedding"} for index in range(count)]
        document = {"data": data, "model": body["model"], "object": "list", "usage": usage(0)}
        if self.alter is not None:
            self.alter(document)
        return web.Response(text=json.dumps(document, separators=(",", ":")), content_type="application/json")

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        """Events as SGLang's, with the comments of Hydrant's plugin."""
        self.requests.append(body := await request.json())
        words = _words({"max_tokens": body["max_output_tokens"]})
        if not body.get("stream"):
            document = response_object(body, words)
            if self.alter is not None:
                self.alter(document)
            return web.json_response(document)
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            for name in ("response.created", "response.in_progress"):
                await response.write(named_event(name, {"response": response_object(body, [])}))
            if self.refuse is not None:
                await response.write(named_event("error", self.refuse[1]))
                return response
            if self.die_after == -1:
                _break_off(request)
            for count, word in enumerate(words, 1):
                if self.die_after is not None and count > self.die_after:
                    _break_off(request)
                if self.end_after is not None and count > self.end_after:
                    return response
                if self.tells_usage:
                    await response.write(b": hydrant-usage " + json.dumps(usage(count)).encode() + b"\n\n")
                await response.write(named_event("response.output_text.delta", {"delta": word}))
                await asyncio.sleep(self.token_delay)
            await response.write(named_event("response.incomplete", {"response": response_object(body, words)}))
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted += 1
            raise
        return response

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        body = await request.json()
        self.requests.append(body)
        self.headers.append(request.headers)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.refuse is not None:
                return web.json_response(self.refuse[1], status=self.refuse[0])
            if PROMPT_TOKENS + body["max_tokens"] > self.context:
                return web.json_response(too_long(self.context, body["max_tokens"]), status=400)
            await asyncio.sleep(self.first_token_delay)
            answer = await (self._stream if body.get("stream") else self._plain)(request, body, chat)
            self.completed += 1
            return answer
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted += 1
            raise
        finally:
            self.active -= 1

    async def _plain(self, request: web.Request, body: dict[str, Any], chat: bool) -> web.StreamResponse:
        words = _words(body)
        if self.die_after is not None:
            _break_off(request)
        await asyncio.sleep(self.token_delay * len(words))
        text = " ".join(words)
        content = (
            {"message": {"role": "assistant", "content": text, "reasoning_content": None}} if chat else {"text": text}
        )
        choices = [
            {"index": index, **content, "logprobs": None, "finish_reason": "length", "matched_stop": None}
            for index in range(body.get("n") or 1)
        ]
        document = {
            "id": "answer-1",
            "object": "chat.completion" if chat else "text_completion",
            "created": 1700000000,
            "model": body["model"],
            "choices": choices,
            "usage": usage(len(words) * len(choices)),
            "metadata": {"weight_version": "default"},
        }
        if self.alter is not None:
            self.alter(document)
        return web.json_response(document)

    async def _stream(self, request: web.Request, body: dict[str, Any], chat: bool) -> web.StreamResponse:
        options = body.get("stream_options") or {}
        running, final = options.get("continuous_usage_stats"), options.get("include_usage")
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        words = _words(body)
        if self.die_after == -1:
            _break_off(request)
        sent = 0
        answers = range(body.get("n") or 1)
        if chat:
            for index in answers:
                await response.write(
                    chat_chunk(body["model"], index, {"reasoning_content": None, "role": "assistant", "content": ""})
                )
        for count, word in enumerate(words, 1):
            for index in answers:
                if self.die_after is not None and sent >= self.die_after:
                    _break_off(request)
                if self.end_after is not None and sent >= self.end_after:
                    return response
                shown = usage(count) if running else None
                text = word if count == 1 else " " + word
                if chat:
                    await response.write(
                        chat_chunk(body["model"], index, {"reasoning_content": None, "content": text}, usage=shown)
                    )
                else:
                    reason = "length" if count == len(words) else None
                    await response.write(text_chunk(body["model"], index, text, reason, usage=shown))
                sent += 1
            await asyncio.sleep(self.token_delay)
        if chat:
            for index in answers:
                await response.write(chat_chunk(body["model"], index, {"reasoning_content": None}, reason="length"))
        if final:
            await response.write(usage_chunk(body["model"], chat, usage(len(words) * len(answers))))
        await response.write(b"data: [DONE]\n\n")
        return response


def too_long(context: int, max_tokens: int) -> dict[str, Any]:
    """SGLang 0.5.23's refusal of a request that does not fit its context."""
    message = (
        f"Requested token count exceeds the model's maximum context length of {context} tokens. You requested a total "
        f"of {PROMPT_TOKENS + max_tokens} tokens: {PROMPT_TOKENS} tokens from the input messages and {max_tokens} "
        "tokens for the completion. Please reduce the number of tokens in the input messages or the completion to fit "
        "within the limit."
    )
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}


def usage(completion_tokens: int) -> dict[str, Any]:
    """SGLang's usage object, without a cache report."""
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "total_tokens": PROMPT_TOKENS + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def response_object(body: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """The body of a response that has reached its bound; one without words is in progress."""
    used = {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": len(words),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT_TOKENS + len(words),
    }
    status = "incomplete" if words else "in_progress"
    text = [{"type": "output_text", "text": " ".join(words), "annotations": []}]
    output = [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": text}]
    common = {"id": "resp_1", "object": "response", "created_at": 1700000000, "model": body["model"], "status": status}
    return common | {"output": output if words else [], "usage": used if words else None, "store": body["store"]}


def named_event(name: str, document: dict[str, Any]) -> bytes:
    """One event of a stream of responses."""
    return f"event: {name}\ndata: {json.dumps({'type': name} | document)}\n\n".encode()


def chat_chunk(
    model: str, index: int, delta: dict[str, Any], *, reason: str | None = None, usage: dict[str, Any] | None = None
) -> bytes:
    """A plain chat delta as SGLang's msgspec encoder writes it."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason, "matched_stop": None}
    chunk = {
        "id": "answer-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": model,
        "choices": [choice],
    }
    return _event(chunk | ({"usage": usage} if usage else {}))


def text_chunk(model: str, index: int, text: str, reason: str | None, *, usage: dict[str, Any] | None = None) -> bytes:
    """A completion chunk as SGLang's pydantic model writes it."""
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason, "matched_stop": None}
    return _event(
        {
            "id": "answer-1",
            "object": "text_completion",
            "created": 1700000000,
            "model": model,
            "choices": [choice],
            "usage": usage,
        }
    )


def usage_chunk(model: str, chat: bool, usage: dict[str, Any]) -> bytes:
    """The last chunk of a stream that asked for usage."""
    kind = "chat.completion.chunk" if chat else "text_completion"
    return _event(
        {"id": "answer-1", "object": kind, "created": 1700000000, "model": model, "choices": [], "usage": usage}
    )


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def _words(body: dict[str, Any]) -> list[str]:
    return [WORDS[position % len(WORDS)] for position in range(body["max_tokens"])]


def _break_off(request: web.Request) -> None:
    """Ends the connection as a killed process does."""
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError
