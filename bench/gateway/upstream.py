"""`python -m bench.gateway.upstream PORT`: a worker that costs next to nothing, behind every gateway that is measured.

It writes what SGLang 0.5.23 writes for a chat completion (tests/unit/gateway/sglang_chunks.json was recorded from it),
from bytes made ahead: a plain answer whole, a stream with an event a token, each in an HTTP chunk of its own. Events of
`BURST` tokens go out in one write, which is what lies in the socket when the reader is the slower one: with a write for
each, the upstream would be the limit instead. The model `PACED` gives a token every `PACE_S` seconds instead.
"""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from typing import Any, cast

import orjson
import uvloop

PACED = "bench-paced"
PACE_S = 2.0
BURST = 8
PROMPT_TOKENS = 24
DEFAULT_TOKENS = 16
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: "
_STREAM_HEAD = _HEAD + b"text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection: requests one after the other."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        # uvloop's transports are not of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left: nothing more is written."""
        self._transport = None
        if self._streaming is not None:
            self._streaming.cancel()

    def pause_writing(self) -> None:
        """The reader is behind."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Answers once a request is whole."""
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._received[:head_end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        end = head_end + 4 + length
        if len(self._received) < end:
            return
        body, self._received = self._received[head_end + 4 : end], self._received[end:]
        self._answer(orjson.loads(body) if body else {})

    def _answer(self, body: dict[str, Any]) -> None:
        assert self._transport is not None
        if "messages" not in body:  # what a router asks a worker for: is it well, what does it serve
            self._transport.write(_whole(orjson.dumps({"status": "ok", "model_path": "bench", "data": []})))
            return
        # sglang-router passes the older name on as the newer.
        tokens = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_TOKENS
        if not body.get("stream"):
            self._transport.write(plain_answer(body["model"], tokens))
            return
        options = body.get("stream_options") or {}
        usage = (bool(options.get("include_usage")), bool(options.get("continuous_usage_stats")))
        burst = 1 if body["model"] == PACED else BURST
        pace = PACE_S if body["model"] == PACED else 0.0
        self._streaming = asyncio.ensure_future(self._stream(stream_writes(body["model"], tokens, *usage, burst), pace))

    async def _stream(self, writes: tuple[bytes, ...], pace: float) -> None:
        for data in writes:
            if not self._writable.is_set():
                await self._writable.wait()
            if self._transport is None:
                return
            self._transport.write(data)
            await asyncio.sleep(pace)


@cache
def plain_answer(model: str, tokens: int) -> bytes:
    """A whole HTTP answer, not streamed."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": " token" * tokens, "reasoning_content": None, "tool_calls": None},
        "logprobs": None,
        "finish_reason": "length",
        "matched_stop": None,
    }
    return _whole(
        orjson.dumps(
            {
                "id": "answer-1",
                "object": "chat.completion",
                "created": 1_700_000_000,
                "model": model,
                "choices": [choice],
                "usage": _usage(tokens),
                "metadata": {"weight_version": "default"},
            }
        )
    )


@cache
def stream_writes(model: str, tokens: int, final_usage: bool, running_usage: bool, burst: int) -> tuple[bytes, ...]:
    """What is written for a stream, write by write: the head and the role, the tokens, the end."""

    def chunk(delta: dict[str, Any], count: int, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, "matched_stop": None}
        usage = {"usage": _usage(count)} if running_usage and count else {}
        return _event(_document(model) | {"choices": [choice]} | usage)

    # All different: LiteLLM takes a hundred equal chunks for a model that has gone astray, and ends the stream.
    events = [
        chunk({"reasoning_content": None, "content": f" word{number}"}, number) for number in range(1, tokens + 1)
    ]
    last = [chunk({"reasoning_content": None}, tokens, "length")]
    if final_usage:
        last.append(_event(_document(model) | {"choices": [], "usage": _usage(tokens)}))
    last.append(_framed(b"data: [DONE]\n\n"))
    return (
        _STREAM_HEAD + chunk({"reasoning_content": None, "role": "assistant", "content": ""}, 0),
        *(b"".join(events[start : start + burst]) for start in range(0, tokens, burst)),
        b"".join(last) + _LAST_CHUNK,
    )


def _document(model: str) -> dict[str, Any]:
    return {"id": "answer-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model}


def _usage(tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "total_tokens": PROMPT_TOKENS + tokens,
        "completion_tokens": tokens,
        "prompt_tokens_details": None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def _event(document: dict[str, Any]) -> bytes:
    return _framed(b"data: " + orjson.dumps(document) + b"\n\n")


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _whole(body: bytes) -> bytes:
    return _HEAD + b"application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def serve(port: int) -> None:
    """Listens on 127.0.0.1 until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
