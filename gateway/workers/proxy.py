"""Passes one worker's answer on to the client, and notes what it used."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import orjson

from gateway import metrics
from gateway.accounting.attempts import Usage
from gateway.accounting.metering import Metering
from gateway.body.parsing import Endpoint
from gateway.call import Call
from gateway.clock import now_ms
from gateway.failpoints import reach
from gateway.readmodel.routes import Route
from gateway.workers.answer import whole_usage
from gateway.workers.stream import AnthropicStream, OpenAIStream, ResponsesStream, read_usage, split_last_event
from gateway.workers.upstream import (
    REFUSALS,
    Upstream,
    UpstreamFailed,
    hosted_failure,
    provider_refusal,
    upstream_body,
    worker_refusal,
)

USAGE_HEADER = b"x-hydrant-usage"


class Proxy:
    """Runs one attempt of a call on one worker, to its end."""

    def __init__(self, metering: Metering, upstream: Upstream) -> None:
        self._metering = metering
        self._upstream = upstream

    def run(self, call: Call, route: Route, traceparent: str | None = None) -> Coroutine[Any, Any, None]:
        """The whole exchange; the attempt is ended when it returns. `traceparent`: the worker's spans' parent.

        Raises `UpstreamFailed`, and `ApiError` when the worker refuses the request itself: then nothing ran.
        """
        exchange = self._stream if call.request.stream else self._plain
        return exchange(call, route, traceparent)

    async def _plain(self, call: Call, route: Route, traceparent: str | None) -> None:
        """A whole answer, billed only when the client is still there to get it."""
        body = upstream_body(call.request, call.model, call.tenant, call.max_tokens)
        async with self._upstream.call(route, call.request.endpoint, call.lane, body, traceparent) as response:
            answer = await self._upstream.read_whole(response)
            reported = response.headers.get(USAGE_HEADER)
        self._deliver(call, plain_usage(call.request.endpoint, answer, reported if call.lane != "direct" else None))
        await self._end(call)
        await call.reply.json(200, answer)

    async def _stream(self, call: Call, route: Route, traceparent: str | None) -> None:
        """Events as they come. Raises `UpstreamFailed` when they end without a finish reason and the end mark."""
        request = call.request
        reader: OpenAIStream | AnthropicStream | ResponsesStream
        if request.endpoint is Endpoint.MESSAGES:
            reader = AnthropicStream()
        elif request.endpoint is Endpoint.RESPONSES:
            reader = ResponsesStream()
        else:
            # How many answers a provider gives is its own affair: the hosted process sees that the last one ended.
            theirs = call.lane == "hosted"
            reader = OpenAIStream(
                choices=1 if theirs else request.choices,
                prompts=1 if theirs else request.prompts,
                wants_usage=request.wants_usage,
                wants_running_usage=request.wants_running_usage,
            )
        body = upstream_body(request, call.model, call.tenant, call.max_tokens)
        last = b""
        async with self._upstream.call(route, request.endpoint, call.lane, body, traceparent) as response:
            while data := await response.read():
                last = reader.feed(data)
                if reader.done:
                    break
                if last:
                    await call.reply.stream(last)
                    call.delivered = True
                    self._deliver(call, reader.usage)
                    reach("gateway.delivered")
                if reader.failed:
                    break
        if not (reader.done and reader.finished):
            raise _stream_failure(call, reader.error, reported=reader.failed)
        rest, end_mark = split_last_event(last)
        if rest:
            # The last tokens may come together with the end mark: they go out before they are billed.
            await call.reply.stream(rest)
            call.delivered = True
        self._deliver(call, reader.usage)
        await self._end(call)
        await call.reply.end_stream(end_mark)

    async def _end(self, call: Call) -> None:
        """Ends the attempt before the client has the last bytes: then slots and reservation are free again."""
        attempt, call.attempt = call.open_attempt, None
        await self._metering.finish(attempt, "ok")

    def _deliver(self, call: Call, usage: Usage) -> None:
        attempt = call.open_attempt
        if attempt.first_token_at_ms is None and usage.completion_tokens:
            metrics.observe(metrics.FIRST_TOKEN(call.model.name), (now_ms() - call.arrived_at_ms) / 1000)
        attempt.deliver(usage)


def plain_usage(endpoint: Endpoint, answer: bytes, reported: bytes | None) -> Usage:
    """The engine's usage of a whole answer: from the header of the hosted process, which has checked it, else from the
    body. Raises `UpstreamFailed` for what is not a finished answer."""
    try:
        return whole_usage(endpoint, answer) if reported is None else read_usage(orjson.loads(reported))
    except (ValueError, TypeError) as error:
        raise UpstreamFailed(str(error)) from error


def _stream_failure(call: Call, error: object, *, reported: bool) -> Exception:
    """What to raise for a stream that was not finished. `reported`: by an error or an abort, it did not just end."""
    if call.lane == "hosted":
        return provider_refusal(502, {}, error)
    if call.lane == "litellm" and (failure := hosted_failure(error)) is not None:
        return failure
    if isinstance(error, dict) and not call.delivered:
        code, message = error.get("code"), error.get("message")
        # The worker says, before it generated anything, that the request itself is wrong.
        if code in REFUSALS and isinstance(message, str):
            return worker_refusal(code, message)
    # SGLang ends a stream without any mark when a stage dies.
    lost = not reported and call.lane == "direct"
    return UpstreamFailed("the stream ended without a finish reason", lost=lost)
