"""One request and its answer on a client's connection: ASGI's `receive` and `send`, and whether the client has gone."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.clients.reply import CLIENT, HEADERS, Message, Scope

if TYPE_CHECKING:
    from gateway.clients.connection import Connection

BODY_AHEAD_BYTES = 64 * 1024
"""So much of a body is read before the application asks for it."""

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_FAILED = _STATUS_LINES[500] + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_WITHOUT_BODY = frozenset((204, 304))


class Exchange:
    """`keeps`: whether the connection may serve another request after this one."""

    __slots__ = (
        "_body_bytes",
        "_chunked",
        "_connection",
        "_expects",
        "_head",
        "_left_bytes",
        "_parts",
        "_told",
        "_version",
        "_waiter",
        "_without_body",
        "answered",
        "gone",
        "has_sent_all",
        "keeps",
        "started",
    )

    def __init__(self, connection: Connection, scope: Scope, *, keeps: bool) -> None:
        # Of repeated headers the first.
        named = dict(reversed(scope["headers"]))
        scope["extensions"] = {CLIENT: self, HEADERS: named}
        # Not the scope itself, which holds this already: only the cycle collector would find them.
        self._version: str = scope["http_version"]
        self._without_body = scope["method"] == "HEAD"
        self.keeps = keeps
        self.started = False
        self.answered = False
        self.gone: asyncio.Future[None] = connection.loop.create_future()
        self._connection = connection
        self._expects = named.get(b"expect", b"").lower() == b"100-continue"
        self._parts: list[bytes] = []
        self._body_bytes = 0
        self.has_sent_all = False
        self._told = False
        self._waiter: asyncio.Future[None] | None = None
        self._head = b""
        self._chunked = False
        self._left_bytes: int | None = None

    @property
    def is_full(self) -> bool:
        """Whether the client does not fetch what is written: then `send` waits."""
        return self._connection.is_full

    def feed(self, part: bytes) -> None:
        """A part of the request's body."""
        if self.answered:
            return
        self._parts.append(part)
        self._body_bytes += len(part)
        if self._body_bytes > BODY_AHEAD_BYTES:
            self._connection.pause_reading()
        self._wake()

    def feed_end(self) -> None:
        """The request is whole."""
        self.has_sent_all = True
        self._wake()

    def leave(self) -> None:
        """The client has gone."""
        if not self.answered and not self.gone.done():
            self.gone.set_result(None)
            self._wake()

    async def receive(self) -> Message:
        """ASGI's."""
        if self._expects and not self.started:
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._expects = False
        while not (self._parts or (self.has_sent_all and not self._told) or self.gone.done() or self.answered):
            self._connection.resume_reading()
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        if self.gone.done() or self.answered:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._take(), "more_body": not self.has_sent_all}

    def take_body(self) -> bytes | None:
        """The whole body, once; None where it has not come yet: then it is to be received."""
        return self._take() if self.has_sent_all and not self._told and not self.gone.done() else None

    def _take(self) -> bytes:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._body_bytes = 0
        self._told = self.has_sent_all
        return body

    async def send(self, message: Message) -> None:
        """ASGI's; a head leaves with the first part of its body."""
        if self._connection.is_full:
            await self._connection.drained()
        if self.gone.done():
            return
        if not self.started:
            self._begin(message["status"], message["headers"])
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        framed = self._framed(body, more)
        self._connection.transport.write(self._head + framed)
        self._head = b""
        if not more:
            self.answered = True
            self._wake()
            self._connection.answered(self)

    def break_off(self) -> None:
        """The application has ended without having answered: whoever has a part of an answer must not take it for the
        whole."""
        if not (self.answered or self.gone.done()):
            if not self.started:
                self._connection.transport.write(_FAILED)
            self.answered = True
            self._connection.transport.close()

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        lines = [_STATUS_LINES[status]]
        lines += map(b": ".join, self._connection.default_headers)
        lines += map(b": ".join, headers)
        length = dict(headers).get(b"content-length")
        self._without_body |= status in _WITHOUT_BODY
        self._left_bytes = 0 if self._without_body else None if length is None else int(length)
        if self._left_bytes is None:
            if self._version == "1.0":
                self.keeps = False  # its end is the body's
            else:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked")
        if not self.keeps:
            lines.append(b"connection: close")
        lines += (b"", b"")
        head = b"\r\n".join(lines)
        if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or b"\0" in head:
            raise ValueError("a header of the answer holds a line break")
        self.started, self._head = True, head

    def _framed(self, body: bytes, more: bool) -> bytes:
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        if self._without_body:
            return b""
        if self._left_bytes is not None:
            self._left_bytes -= len(body)
            if self._left_bytes < 0 or (self._left_bytes and not more):
                raise ValueError("the answer is not as long as its content-length")
        return body

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
