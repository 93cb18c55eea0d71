"""The load generator for streams and latencies: HTTP/1.1 on bare sockets, which costs less than any server here."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import cast

import orjson

from bench.gateway.variant import Variant

CHAT = "/v1/chat/completions"
QUESTION = "Say in one sentence why a model that nobody uses should cost nothing, and what it takes to wake it up."
_MARK = b"data: "


class LoadError(Exception):
    """A server did not answer as it should."""


@dataclass(slots=True)
class Answer:
    """What came: seconds from the request to the first event (of a stream) and to the end; events counts `data:`."""

    first_s: float = 0.0
    total_s: float = 0.0
    events: int = 0


def request_bytes(variant: Variant, *, model: str | None = None, tokens: int = 16, stream: bool = False) -> bytes:
    """A chat request as the client sends it, head and body."""
    document = {
        "model": model or variant.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": tokens,
        "stream": stream,
    }
    body = orjson.dumps(document)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1:{variant.port}\r\nauthorization: Bearer {variant.api_key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self.events = 0
        """`data:` events of all answers so far."""
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._left: int | None = None
        self._tail = b""
        self._answer = Answer()
        self._began = 0.0
        self._done: asyncio.Future[Answer] | None = None
        self.started: asyncio.Event = asyncio.Event()
        """Set with the first event of a stream."""

    @classmethod
    async def to(cls, variant: Variant) -> Connection:
        """Connects. Raises OSError."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", variant.port)
        return connection

    async def ask(self, request: bytes) -> Answer:
        """Sends a request and reads its whole answer. Raises LoadError for anything but a 200 that ends well."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._head, self._left, self._tail, self._answer = b"", None, b"", Answer()
        self.started.clear()
        self._began = time.perf_counter()
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        """Hangs up."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        # uvloop's transports are not of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has hung up, or we have."""
        self._fail(f"the server closed the connection after {self._answer.events} events")

    def data_received(self, data: bytes) -> None:
        """Counts events, and notices the end."""
        if self._left is None and not self._read_head(data):
            return
        body = self._head if self._head else data
        self._head = b""
        if self._left:  # of a plain answer
            self._left -= len(body)
            if self._left <= 0:
                self._finish()
            return
        seen = self._tail + body
        # The tail is shorter than the mark, so that no event counts twice.
        found = seen.count(_MARK)
        if found:
            if not self._answer.events:
                self._answer.first_s = time.perf_counter() - self._began
                self.started.set()
            self._answer.events += found
            self.events += found
        self._tail = seen[-5:]
        if self._tail == b"0\r\n\r\n":
            self._finish()

    def _read_head(self, data: bytes) -> bool:
        """Takes the head off `data`; what follows it is left in `_head`. `_left` is 0 for a chunked body."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, self._head = self._head[:end].lower(), self._head[end + 4 :]
        if not head.startswith(b"http/1.1 200"):
            self._fail(f"the server answered {head[:40]!r}: {self._head[:300]!r}")
            return False
        at = head.find(b"content-length:")
        self._left = 0 if at < 0 else int(head[at + 15 :].split(b"\r\n", 1)[0])
        return bool(self._head)

    def _finish(self) -> None:
        self._answer.total_s = time.perf_counter() - self._began
        if self._done is not None and not self._done.done():
            self._done.set_result(self._answer)

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(LoadError(why))
