"""Listens to the worker's own bytes below litellm.

litellm drops running usage, estimates usage where it finds none, and invents a finish reason when a stream just ends.
Bills and the word "finished" must come from the engine, so they are read here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import httpx
import openai

from gateway.errors import WORKER_LOST, WORKER_UNREACHED

# A plain answer is kept whole for its usage; the gateway refuses larger ones anyway.
MAX_PLAIN_BYTES = 64 * 1024 * 1024
CONNECT_SECONDS = 10.0


def timeouts(stall_s: float) -> httpx.Timeout:
    """How long to wait for a worker or provider: `stall_s` for its next bytes. litellm must be told with each call, or
    it sets ten minutes of its own."""
    return httpx.Timeout(stall_s, connect=CONNECT_SECONDS)


class Listener(Protocol):
    """Reads a stream's bytes."""

    def feed(self, data: bytes, /) -> object:
        """Takes a part as it comes."""


class Tap(httpx.AsyncBaseTransport):
    """The transport of one call. `status` is None until the worker answered; `plain` is a whole answer or an error.

    `trouble` is the code for a failed connection: `worker_unreached` when nothing can have run, else `worker_lost`.
    """

    def __init__(self, shared: httpx.AsyncBaseTransport, reader: Listener | None) -> None:
        self.called = False
        self.trouble: str | None = None
        self.timed_out = False
        self.headers = httpx.Headers()
        self.status: int | None = None
        self.plain = bytearray()
        self.ended = False
        self.reader = reader
        self._shared = shared
        self._stream: _Listening | None = None

    def client(self, base_url: str, api_key: str, timeout: httpx.Timeout) -> openai.AsyncOpenAI:
        """An OpenAI client that sends through this tap; it does not follow redirects."""
        http = httpx.AsyncClient(transport=self, trust_env=False, timeout=timeout)
        return openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0, http_client=http)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """httpx's entry: sends the request and wraps the answer's body."""
        if self.called:
            # litellm asks again when a connection breaks; what has begun there would be paid twice.
            raise httpx.RemoteProtocolError("one call, one request")
        self.called = True
        try:
            response = await self._shared.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self.trouble = WORKER_UNREACHED
            raise
        except httpx.TransportError as error:
            self.trouble, self.timed_out = WORKER_LOST, isinstance(error, httpx.TimeoutException)
            raise
        self.status, self.headers = response.status_code, response.headers
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._stream = _Listening(self, response.stream)
        return httpx.Response(
            response.status_code, headers=response.headers, stream=self._stream, extensions=response.extensions
        )

    async def hang_up(self) -> None:
        """Closes the connection to the worker, whatever litellm has done with it."""
        if self._stream is not None:
            await self._stream.aclose()

    def heard(self, data: bytes) -> None:
        """Takes a part of the worker's answer."""
        if self.reader is not None and self.status == 200:
            self.reader.feed(data)
        elif len(self.plain) < MAX_PLAIN_BYTES:
            self.plain += data


class _Listening(httpx.AsyncByteStream):
    """Passes a body on unchanged."""

    def __init__(self, tap: Tap, stream: httpx.AsyncByteStream) -> None:
        self._tap = tap
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._stream:
                self._tap.heard(data)
                yield data
        except httpx.TransportError as error:
            self._tap.trouble, self._tap.timed_out = WORKER_LOST, isinstance(error, httpx.TimeoutException)
            raise
        self._tap.ended = True

    async def aclose(self) -> None:
        await self._stream.aclose()
