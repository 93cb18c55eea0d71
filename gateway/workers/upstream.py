"""Calls to workers and to the hosted process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import orjson

from gateway.body.parsing import Endpoint, InferenceRequest
from gateway.errors import (
    TRANSLATION_FAILED,
    WORKER_FAILED,
    WORKER_LOST,
    WORKER_UNREACHED,
    ApiError,
    translation_failed,
)
from gateway.readmodel.routes import Route
from gateway.readmodel.snapshot import Model, Tenant
from gateway.settings import Settings
from gateway.workers.worker_client import Answer, Unreached, WorkerClient
from gateway.workers.worker_connection import Lost

# Of an error answer only this much is read.
MAX_ERROR_BYTES = 64 * 1024
REFUSALS = (400, 413, 422)
"""What a worker says of the request itself. All else is not the client's doing: 401 and 403 are of the gateway's own
key for the worker, 404 and 429 of the worker's state."""
_TOO_LONG = re.compile(r"maximum context length of (\d+) tokens.*: (\d+) tokens from the input")
_PROMPT_TOO_LONG = re.compile(r"is longer than the model's context length \(\d+ tokens\)")


class UpstreamFailed(Exception):
    """The worker failed; another one may do better.

    `lost`: it could not be reached or broke off, so pass it over for a while. `ran`: the request may have begun there.
    `hosted`: the translating process failed, and nothing is known of the worker. `answer`: what the client is told at
    once, where another try would not help.
    """

    def __init__(
        self,
        reason: str,
        *,
        lost: bool = False,
        ran: bool = True,
        hosted: bool = False,
        answer: ApiError | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lost = lost
        self.ran = ran
        self.hosted = hosted
        self.answer = answer


def hosted_failure(error: object) -> UpstreamFailed | None:
    """What the hosted process' error object says of the worker; None when it only passes the worker's own error on."""
    code = error.get("code") if isinstance(error, dict) else None
    if code == WORKER_UNREACHED:
        return UpstreamFailed("the hosted process could not reach it", lost=True, ran=False)
    if code == WORKER_LOST:
        return UpstreamFailed("it broke off towards the hosted process", lost=True)
    if code == WORKER_FAILED:
        return UpstreamFailed("the hosted process got no finished answer")
    if code == TRANSLATION_FAILED:
        return UpstreamFailed("its answer could not be translated", answer=translation_failed())
    return None


def provider_route(model: Model) -> Route:
    """The way to a model that a provider serves."""
    assert model.provider is not None
    told = orjson.dumps(model.provider)
    return Route(model.name, "", "", "", "hosted", None, 0, None, provider=told)


def provider_refusal(status: int, headers: Mapping[bytes, bytes], error: object) -> Exception:
    """What the hosted process says of a provider: `ApiError` where the request is wrong, else `UpstreamFailed`.
    `headers`: of its answer, whose words on asking again are the client's."""
    found = error if isinstance(error, dict) else {}
    code, message, param = found.get("code"), found.get("message"), found.get("param")
    if not isinstance(message, str) or status in (401, 404):
        return UpstreamFailed(f"status {status} of the hosted process")
    retry_after, again = headers.get(b"retry-after", b""), headers.get(b"x-should-retry")
    wait_s = int(retry_after) if retry_after.isdigit() else None
    if status < 500:
        return ApiError(status, message, code=code, param=param if isinstance(param, str) else None)
    told = () if again is None else ((b"x-should-retry", again),)
    answer = ApiError(status, message, type_="server_error", code=code, retry_after_s=wait_s, headers=told)
    return UpstreamFailed(str(code), answer=answer)


def upstream_body(request: InferenceRequest, model: Model, tenant: Tenant, max_tokens: int) -> bytes:
    """The body for the worker: real model name, bounded answer, usage for billing, the tenant's own cache salt."""
    body: dict[str, Any] = dict(request.body)
    body["model"] = model.name
    if request.endpoint is Endpoint.EMBEDDINGS:
        return orjson.dumps(body)
    if request.endpoint is Endpoint.RESPONSES:
        # Workers keep nothing, and the answer says so.
        return orjson.dumps(body | {"max_output_tokens": max_tokens, "store": False, "cache_salt": tenant.salt})
    body.pop("max_completion_tokens", None)
    body["max_tokens"] = max_tokens
    if request.endpoint is not Endpoint.MESSAGES:
        body.pop("stream_options", None)
        if request.stream:
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    if model.provider is None:
        body["cache_salt"] = tenant.salt
    return orjson.dumps(body)


def room_left(message: str) -> int | None:
    """The tokens that a worker, refusing a request as too long, leaves for its answer; None for other refusals.

    SGLang counts prompt and `max_tokens` together (`tokenizer_manager._validate_one_request`).
    """
    found = _TOO_LONG.search(message)
    return int(found[1]) - int(found[2]) if found else None


def worker_refusal(status: int, message: str, param: str | None = None) -> ApiError:
    """What a worker says is wrong with the request itself; of one that is too long, with the code that OpenAI gives."""
    if status == 400 and (_TOO_LONG.search(message) or _PROMPT_TOO_LONG.search(message)):
        return ApiError(400, message, param=param, code="context_length_exceeded")
    return ApiError(status, message, param=param)


def as_asked(refusal: ApiError, asked: int | None, sent: int) -> ApiError:
    """A worker's refusal, but one of a request as too long with the `max_tokens` that the client `asked` for, where the
    worker was `sent` less: nothing that asks for more than the context reaches it as it is."""
    found = _TOO_LONG.search(refusal.message)
    if found is None or asked is None or asked <= sent:
        return refusal
    context, prompt = int(found[1]), int(found[2])
    fits = f"Ask for {context - prompt} at most, or shorten the prompt." if context > prompt else "Shorten the prompt."
    message = (
        f"This model's maximum context length is {context} tokens. You requested {prompt + asked}: {prompt} in the "
        f"prompt and {asked} for the completion (max_tokens). {fits}"
    )
    return ApiError(refusal.status, message, param="max_tokens", code=refusal.code)


class Upstream:
    """Calls to all workers, and to the hosted process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = WorkerClient(settings.connect_timeout_s, settings.stall_timeout_s)

    def close(self) -> None:
        """Closes the idle connections."""
        self._client.close()

    def call(
        self, route: Route, endpoint: Endpoint, lane: str, body: bytes, traceparent: str | None = None
    ) -> UpstreamCall:
        """A context whose value is a successful answer's head; its body is read inside. Leaving early closes the
        connection: SGLang then aborts.

        Raises `UpstreamFailed`, and `ApiError` when the worker refuses the request itself (4xx).
        """
        url, headers = self._target(route, endpoint, lane)
        if traceparent is not None:
            headers["traceparent"] = traceparent
        return UpstreamCall(self._client, url, headers, body, lane)

    async def read_whole(self, answer: Answer) -> bytes:
        """A plain answer's body. Raises `UpstreamFailed` when it is larger than allowed."""
        limit, told = self._settings.max_answer_bytes, answer.headers.get(b"content-length", b"0")
        body = b"" if told.isdigit() and int(told) > limit else await _read_at_most(answer, limit + 1)
        if len(body) > limit or not body:
            raise UpstreamFailed("the answer is too large, or empty")
        return body

    def _target(self, route: Route, endpoint: Endpoint, lane: str) -> tuple[str, dict[str, str]]:
        headers = {"content-type": "application/json"}
        if route.provider is not None:
            headers["x-hydrant-secret"] = self._settings.hosted_secret
            headers["x-hydrant-provider"] = route.provider.decode()
            return self._settings.hosted_url + endpoint.path, headers
        if lane == "litellm":
            headers["x-hydrant-secret"] = self._settings.hosted_secret
            headers["x-hydrant-upstream-url"] = route.url
            headers["x-hydrant-upstream-key"] = route.api_key
            return self._settings.hosted_url + endpoint.path, headers
        headers["authorization"] = f"Bearer {route.api_key}"
        return route.url + endpoint.path, headers


class UpstreamCall:
    """See `Upstream.call`. A class, because a generator's context takes several times as long."""

    __slots__ = ("_answer", "_body", "_client", "_headers", "_lane", "_url")

    def __init__(self, client: WorkerClient, url: str, headers: dict[str, str], body: bytes, lane: str) -> None:
        self._client, self._url, self._headers, self._body, self._lane = client, url, headers, body, lane
        self._answer: Answer

    async def __aenter__(self) -> Answer:
        try:
            self._answer = await self._client.post(self._url, self._headers, self._body)
            if self._answer.status != 200:
                try:
                    await _raise_refusal(self._answer, self._lane)
                finally:
                    self._answer.close()
        except (Unreached, Lost) as error:
            raise self._failure(error) from error
        return self._answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._answer.close()
        if isinstance(error, (Unreached, Lost)):
            raise self._failure(error) from error

    def _failure(self, error: Unreached | Lost) -> UpstreamFailed:
        # On the litellm lane this connection is the hosted process'; of the worker's it tells itself.
        hosted = self._lane != "direct"
        return UpstreamFailed(str(error), lost=not hosted, ran=not isinstance(error, Unreached), hosted=hosted)


async def _raise_refusal(answer: Answer, lane: str) -> None:
    body = await _read_at_most(answer, MAX_ERROR_BYTES)
    if lane == "hosted":
        raise provider_refusal(answer.status, answer.headers, _error_of(body))
    if answer.status not in REFUSALS:
        told = hosted_failure(_error_of(body)) if lane == "litellm" else None
        raise told or UpstreamFailed(f"status {answer.status}")
    message, param = _message_of(body)
    raise worker_refusal(answer.status, message, param)


async def _read_at_most(answer: Answer, limit: int) -> bytes:
    parts = bytearray()
    while part := await answer.read():
        parts += part
        if len(parts) >= limit:
            break
    del parts[limit:]
    return bytes(parts)


def _error_of(body: bytes) -> object:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document.get("error") if isinstance(document, dict) else None


def _message_of(body: bytes) -> tuple[str, str | None]:
    """SGLang's and FastAPI's error bodies: `{"message"}`, `{"error": {"message"}}`, `{"detail"}`."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "The worker refused the request.", None
    if isinstance(document, dict):
        nested = document.get("error")
        error = nested if isinstance(nested, dict) else document
        message = error.get("message")
        if isinstance(message, str):
            param = error.get("param")
            return message, param if isinstance(param, str) else None
        if "detail" in document:
            return f"The worker refused the request: {document['detail']}", None
    return "The worker refused the request.", None
