"""Calls to workers and to the hosted process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from gateway.errors import ApiError, unavailable
from gateway.parsing import Endpoint, InferenceRequest
from gateway.routes import Route
from gateway.settings import Settings
from gateway.snapshot import Model, Tenant

# Of an error answer only this much is read.
MAX_ERROR_BYTES = 64 * 1024


class UpstreamFailed(Exception):
    """The worker failed; another one may do better.

    `lost`: it could not be reached or broke off, so pass it over for a while. `ran`: the request may have begun there.
    """

    def __init__(self, reason: str, *, lost: bool, ran: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lost = lost
        self.ran = ran


def upstream_body(request: InferenceRequest, model: Model, tenant: Tenant) -> bytes:
    """The body for the worker: real model name, bounded answer, usage for billing, the tenant's own cache salt."""
    body: dict[str, Any] = dict(request.body)
    body["model"] = model.name
    body.pop("max_completion_tokens", None)
    body["max_tokens"] = request.output_bound(model.context_length, model.default_max_tokens)
    if request.endpoint is not Endpoint.MESSAGES:
        body.pop("stream_options", None)
        if request.stream:
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    body["cache_salt"] = tenant.salt
    return orjson.dumps(body)


class Upstream:
    """One connection pool to all workers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Creates the pool; needs a running event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._settings.connect_timeout_s,
                sock_read=self._settings.stall_timeout_s,
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def call(
        self, route: Route, endpoint: Endpoint, lane: str, body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer's head; its body is read inside. Leaving early closes the connection: SGLang then aborts.

        Raises `UpstreamFailed`, and `ApiError` when the worker refuses the request itself (4xx).
        """
        assert self._session is not None
        url, headers = self._target(route, endpoint, lane)
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    await _raise_refusal(response, lane)
                yield response
        except aiohttp.ClientConnectorError as error:
            if lane == "litellm":
                raise unavailable(
                    "The translating process is not running. Try again shortly.", "hosted_down"
                ) from error
            raise UpstreamFailed(type(error).__name__, lost=True, ran=False) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamFailed(type(error).__name__, lost=True) from error

    async def read_whole(self, response: aiohttp.ClientResponse) -> bytes:
        """A plain answer's body. Raises `UpstreamFailed` when it is larger than allowed."""
        body = await _read_at_most(response, self._settings.max_answer_bytes + 1)
        if len(body) > self._settings.max_answer_bytes:
            raise UpstreamFailed("the answer is too large", lost=False)
        return body

    def _target(self, route: Route, endpoint: Endpoint, lane: str) -> tuple[str, dict[str, str]]:
        headers = {"content-type": "application/json"}
        if lane == "litellm":
            headers["x-hydrant-secret"] = self._settings.hosted_secret
            headers["x-hydrant-upstream-url"] = route.url
            headers["x-hydrant-upstream-key"] = route.api_key
            return self._settings.hosted_url + endpoint.value, headers
        headers["authorization"] = f"Bearer {route.api_key}"
        return route.url + endpoint.value, headers


async def _raise_refusal(response: aiohttp.ClientResponse, lane: str) -> None:
    body = await _read_at_most(response, MAX_ERROR_BYTES)
    # 401 and 403 concern the gateway's own key for the worker, 404 and 429 the worker's state: not the client's doing.
    if response.status >= 500 or response.status < 400 or response.status in (401, 403, 404, 429):
        # The hosted process says 502 when it could not reach the worker.
        unreached = lane == "litellm" and response.status == 502
        raise UpstreamFailed(f"status {response.status}", lost=unreached, ran=not unreached)
    message, param = _message_of(body)
    raise ApiError(response.status, message, param=param, code=None)


async def _read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts = bytearray()
    async for part in response.content.iter_any():
        parts += part
        if len(parts) >= limit:
            break
    return bytes(parts[:limit])


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
