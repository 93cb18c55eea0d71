"""The hosted process' ASGI application: checks the shared secret, calls litellm, streams its answer back."""

from __future__ import annotations

import hmac
import logging
from functools import partial
from typing import Any

import httpx
import orjson

from gateway.accounting.attempts import Usage
from gateway.body.parsing import Endpoint, InferenceRequest, parse_request
from gateway.clients.reply import ClientGone, Receive, Reply, Scope, Send, client_of, read_body, until_disconnect
from gateway.errors import TRANSLATION_FAILED, WORKER_FAILED, WORKER_LOST, ApiError, unknown_path
from gateway.hosted import provider
from gateway.hosted.relay import relay
from gateway.hosted.tap import Tap, timeouts
from gateway.hosted.translate import Translation, quiet_litellm
from gateway.ids import new_id
from gateway.workers.answer import finished_usage
from gateway.workers.stream import OpenAIStream, usage_json

log = logging.getLogger(__name__)

_ENDPOINTS = {endpoint.path: endpoint for endpoint in Endpoint}


class Hosted:
    """Serves the gateway on loopback. `stall_timeout_s` bounds each wait for a worker's next bytes."""

    def __init__(self, secret: str, max_body_bytes: int, stall_timeout_s: float) -> None:
        self._secret = secret.encode()
        self._max_body_bytes = max_body_bytes
        self._stall_timeout_s = stall_timeout_s
        self._transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))
        quiet_litellm()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        reply = Reply(client_of(scope), new_id("hst_"), self._stall_timeout_s)
        try:
            try:
                await self._http(scope, receive, reply)
            except ApiError as error:
                await reply.fail(error)
        except ClientGone:
            return

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await self._transport.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        if scope["path"] == "/health":
            await reply.json(200, b'{"status":"ok"}')
            return
        endpoint = _ENDPOINTS.get(scope["path"])
        if endpoint is None or scope["method"] != "POST":
            raise unknown_path(scope["path"])
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(b"x-hydrant-secret", b""), self._secret):
            raise ApiError(401, "This process serves the gateway only.", code="invalid_api_key")
        raw = await read_body(scope, receive, self._max_body_bytes, self._stall_timeout_s)
        salt = _take_salt(body := orjson.loads(raw))
        request = parse_request(endpoint, orjson.dumps(body))
        asks_provider = b"x-hydrant-provider" in headers
        if not (endpoint.has_providers if asks_provider else endpoint.lane("litellm") == "litellm"):
            raise unknown_path(scope["path"])
        if asks_provider:
            wanted = provider.parse(headers[b"x-hydrant-provider"])
            answering = provider.answer(request, wanted, self._transport, self._stall_timeout_s, reply)
            await until_disconnect(client_of(scope).gone, answering)
            return
        request.body["cache_salt"] = salt
        url, key = headers[b"x-hydrant-upstream-url"].decode(), headers[b"x-hydrant-upstream-key"].decode()
        await until_disconnect(client_of(scope).gone, self._answer(request, url, key, reply))

    async def _answer(self, request: InferenceRequest, url: str, key: str, reply: Reply) -> None:
        reader = None
        if request.stream:
            reader = OpenAIStream(
                choices=request.choices, prompts=request.prompts, wants_usage=False, wants_running_usage=False
            )
        tap = Tap(self._transport, reader)
        patience = timeouts(self._stall_timeout_s)
        try:
            translation = Translation(request.endpoint, request.body)
            answer = await translation.call(tap.client(f"{url}/v1", key, patience), patience)
            if reader is None:
                usage = _finished(bytes(tap.plain))
                await reply.json(200, translation.plain(answer), [(b"x-hydrant-usage", usage_json(usage))])
            else:
                events = translation.events(answer, tap)
                await relay(events, tap, reader, reply, partial(_stream_failure, tap, reader))
        except ApiError:
            raise
        except Exception as error:
            # litellm raises its own and its libraries' errors alike; which side failed is known from the tap.
            raise _failure(error, tap, key) from error
        finally:
            await tap.hang_up()


def _finished(answer: bytes) -> Usage:
    """The usage of a finished answer. litellm would call an aborted one finished, and estimate what it used."""
    try:
        return finished_usage(answer)
    except ValueError as error:
        raise ApiError(502, str(error), code=WORKER_FAILED) from error


def _failure(error: Exception, tap: Tap, key: str) -> ApiError:
    """What the gateway is told: the worker's own refusal, how the worker failed, or what could not be translated."""
    if tap.trouble is not None:
        log.warning("a worker was lost: %s", type(error).__name__)
        return ApiError(502, "The worker could not be reached, or broke off.", code=tap.trouble)
    if tap.status is not None and tap.status != 200:
        return ApiError(tap.status, _worker_message(bytes(tap.plain)))
    if not tap.called:
        message = str(error).replace(key, "...")
        return ApiError(400, f"The request has no OpenAI form: {message[:500]}")
    if isinstance(tap.reader, OpenAIStream):
        return _stream_failure(tap, tap.reader)
    _finished(bytes(tap.plain))
    log.warning("litellm could not translate an answer: %s", type(error).__name__)
    return _untranslated()


def _stream_failure(tap: Tap, reader: OpenAIStream) -> ApiError:
    """Why a stream that the worker began with 200 has no good end."""
    if tap.trouble is not None:
        return ApiError(502, "The worker broke off.", code=tap.trouble)
    if isinstance(reader.error, dict):
        code, message = reader.error.get("code"), reader.error.get("message")
        if isinstance(code, int) and 400 <= code < 500 and isinstance(message, str):
            return ApiError(code, message)
    if reader.failed:
        return ApiError(502, "The worker reported an error.", code=WORKER_FAILED)
    if tap.ended and not reader.finished:
        return ApiError(502, "The worker's stream ended without a finish reason.", code=WORKER_LOST)
    return _untranslated()


def _untranslated() -> ApiError:
    return ApiError(502, "The worker's answer has no form in this API.", code=TRANSLATION_FAILED)


def _worker_message(body: bytes) -> str:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "The worker refused the request."
    message = document.get("message") if isinstance(document, dict) else None
    return message if isinstance(message, str) else "The worker refused the request."


def _take_salt(body: Any) -> str:
    """The tenant's cache salt, which the gateway sets and no client may."""
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return str(body.pop("cache_salt", ""))
