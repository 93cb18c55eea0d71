"""The answer to one HTTP request: started once, ended once, and an error said in the way still possible."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from gateway.errors import ApiError, body_too_large, invalid_request

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
PING = b": waiting\n\n"
CLIENT = "hydrant.client"
"""An ASGI extension of gateway/clients/connection.py: the `Client` of a request."""
HEADERS = "hydrant.headers"
"""Another: its headers by name."""


class Client(Protocol):
    """Who gets an answer. `gone` is done when it has left before it had all of it."""

    gone: asyncio.Future[None]

    @property
    def is_full(self) -> bool:
        """Whether `send` waits, because the client does not fetch what it was sent."""

    async def send(self, message: Message, /) -> None:
        """ASGI's."""


class Asking(Client, Protocol):
    """A client on its connection."""

    def take_body(self) -> bytes | None:
        """The body of its request, once; None where it has not come whole yet: then it is to be received."""


def client_of(scope: Scope) -> Asking:
    """Who sent a request."""
    client: Asking = scope["extensions"][CLIENT]
    return client


def header_of(scope: Scope, name: bytes) -> bytes | None:
    """A request's header, the first of this name (in lower case)."""
    value: bytes | None = scope["extensions"][HEADERS].get(name)
    return value


class ClientGone(Exception):
    """The client closed the connection before it had sent its whole request, or does not read its answer any more."""


class Reply:
    """Sends one answer. `anthropic` picks the shape of errors.

    Every method raises `ClientGone` when the client has read nothing for `stall_s`: else it would hold its place at the
    worker, its slots and its reservation for as long as it likes.
    """

    def __init__(self, client: Client, request_id: str, stall_s: float, *, anthropic: bool = False) -> None:
        self.started = False
        self.ended = False
        self.status = 0
        self.request_id = request_id
        self.headers: Headers = []
        self._client = client
        self._stall_s = stall_s
        self._anthropic = anthropic
        self._since = time.perf_counter()

    @property
    def elapsed_ms(self) -> int:
        """Since the request came."""
        return int((time.perf_counter() - self._since) * 1000)

    async def json(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """A whole JSON answer."""
        await self.whole(status, [JSON, *(headers or [])], body)

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer with its own content type."""
        head = self._head(status, [*headers, (b"content-length", str(len(body)).encode())])
        self.ended = True
        await self._send(head, _part(body, more=False))

    async def relay(self, status: int, headers: Headers, parts: AsyncIterator[bytes]) -> None:
        """Another server's answer, part by part as it comes. What `parts` raises passes through."""
        await self._send(self._head(status, headers))
        async for part in parts:
            await self._body(part, more=True)
        await self._body(b"", more=False)

    async def start_stream(self) -> None:
        """Headers of an event stream, unless they were sent already (with a ping)."""
        if not self.started:
            await self._send(
                self._head(200, [EVENT_STREAM, (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")])
            )

    async def ping(self) -> None:
        """A comment that keeps a waiting stream's connection alive."""
        await self.start_stream()
        await self._body(PING, more=True)

    async def stream(self, data: bytes) -> None:
        """Some events of a stream."""
        if not self.started:
            await self.start_stream()
        if self._client.is_full:
            await self._body(data, more=True)
        else:
            await self._client.send(_part(data, more=True))

    async def end_stream(self, data: bytes) -> None:
        """The last events of a stream."""
        await self.start_stream()
        await self._body(data, more=False)

    async def replay(self, message: Message) -> None:
        """One ASGI message of an answer that was made elsewhere."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
        else:
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """An error: a whole answer, or the last event of a stream that has begun."""
        if self.ended:
            return
        body = error.anthropic_body() if self._anthropic else error.openai_body()
        if self.started:
            frame = b"event: error\ndata: " if self._anthropic else b"data: "
            await self._body(frame + body + b"\n\n", more=False)
            return
        headers = [JSON, *error.headers]
        told = {name for name, _ in headers}
        self.headers = [header for header in self.headers if header[0] not in told]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
        await self.whole(error.status, headers, body)

    def _head(self, status: int, headers: Headers) -> Message:
        self.started, self.status = True, status
        own = [
            (b"x-request-id", self.request_id.encode()),
            (b"openai-processing-ms", str(self.elapsed_ms).encode()),
            *headers,
            *self.headers,
        ]
        return {"type": "http.response.start", "status": status, "headers": own}

    async def _body(self, data: bytes, *, more: bool) -> None:
        self.ended = not more
        await self._send(_part(data, more=more))

    async def _send(self, *messages: Message) -> None:
        if not self._client.is_full:
            for message in messages:
                await self._client.send(message)
            return
        try:
            async with asyncio.timeout(self._stall_s):
                for message in messages:
                    await self._client.send(message)
        except TimeoutError:
            self.ended = True
            raise ClientGone from None


def _part(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def read_body(scope: Scope, receive: Receive, limit_bytes: int, timeout_s: float) -> bytes:
    """The request's body. Raises `ApiError` 413 or 400 (not sent in time), and `ClientGone`."""
    length = header_of(scope, b"content-length")
    if length is not None and int(length) > limit_bytes:
        raise body_too_large(limit_bytes)
    if (body := client_of(scope).take_body()) is not None:
        if len(body) > limit_bytes:
            raise body_too_large(limit_bytes)
        return body
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_parts(receive, limit_bytes)
    except TimeoutError:
        raise invalid_request(f"The request body did not arrive within {timeout_s:.0f} s.") from None


async def _read_parts(receive: Receive, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message["body"]
        size += len(part)
        if size > limit_bytes:
            raise body_too_large(limit_bytes)
        parts.append(part)
        if not message["more_body"]:
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def until_disconnect(gone: asyncio.Future[None], work: Awaitable[None]) -> bool:
    """Runs `work` until it ends or the client leaves (`gone`), whichever is first; True when the client left.

    The work runs in the caller's task, which is cancelled for it: what `asyncio.timeout` does for time, this does for
    the client.
    """
    task = asyncio.current_task(gone.get_loop())
    assert task is not None
    before, left, over = task.cancelling(), False, False

    def leave(_: asyncio.Future[None]) -> None:
        nonlocal left
        if not over:  # it may be on its way when it is taken back
            left = True
            task.cancel()

    gone.add_done_callback(leave)
    try:
        await work
    except asyncio.CancelledError:
        if left and task.uncancel() <= before:
            return True
        raise
    finally:
        over = True
        gone.remove_done_callback(leave)
    return False
