"""A connection to a worker: HTTP/1.1 by httptools, one exchange at a time, with bounds on what a worker may do."""

from __future__ import annotations

import asyncio
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEAD_BYTES = 64 * 1024
"""Of an answer's head, of its trailers, and of what may come between two parts of its body."""
HIGH_WATER_BYTES = 256 * 1024
"""So much of an answer waits for its reader; then the worker has to."""
KEEP_S = 15.0
"""A connection that was idle for longer is not used again."""
RACE_S = 1.0
"""A kept connection that closes this soon after a request, without a byte, had been closed before it came."""

Address = tuple[str, int, bool]
"""Host, port, whether by TLS."""


class Lost(Exception):
    """The worker broke off, stalled, or sent what is no HTTP. The request may have run."""


class ClosedBefore(Lost):
    """A kept connection was closed, without a byte, as the request was sent."""


class WorkerConnection(asyncio.Protocol):
    """One connection; one exchange at a time. `idle`: where it lies between two of them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        idle: dict[Address, list[WorkerConnection]],
        address: Address,
        stall_s: float,
    ) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._loop = loop
        self._idle = idle
        self._address = address
        self._stall_s = stall_s
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        # The parser calls it for every part of a body, and a stream has one for each token.
        self.on_body = self._parts.append
        self._parser = HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        # One timer for all exchanges: a silent one is found when it goes off, and else it is set anew.
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._unsent = 0
        self._used = False
        self._begin()
        self._busy = False

    def _begin(self) -> None:
        self._busy = True
        self.status = 0
        self.headers = {}
        self._interim = False
        self._until_eof = False
        self._complete = False
        self._part_count = 0
        self._keeps = False
        self._error: Lost | None = None
        self._head_bytes = 0
        self._between_bytes = 0
        self._buffered_bytes = 0
        self._paused = False

    def is_fresh(self) -> bool:
        """Whether an idle connection may be used."""
        return self._open() is not None and self._loop.time() - self._heard_at < KEEP_S

    def send(self, head: bytes, body: bytes) -> None:
        """Begins an exchange."""
        self._begin()
        self._heard_at = self._loop.time()
        transport = self._open()
        if transport is None:
            raise self._closed()
        transport.write(head + body)
        self._unsent = transport.get_write_buffer_size()
        if self._timer is None:
            self._timer = self._loop.call_later(self._stall_s, self._tick)

    async def until_head(self) -> None:
        """Waits for the head. Raises Lost."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def read(self) -> bytes:
        """What has come of the body, at least a byte; empty at its end. Raises Lost."""
        parts = self._parts
        while not parts:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered_bytes = 0
        if self._paused and (transport := self._open()) is not None:
            self._paused = False
            self._heard_at = self._loop.time()
            transport.resume_reading()
        return data

    def release(self) -> None:
        """Ends the exchange: idle from now on, or closed."""
        transport = self._open()
        if transport and self._keeps and self._complete and not self._parts and not transport.get_write_buffer_size():
            self._busy, self._used = False, True
            self._heard_at = self._loop.time()
            self._idle.setdefault(self._address, []).append(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Closes it at once."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._parts.clear()
        self._off()

    def _open(self) -> asyncio.Transport | None:
        """The transport, unless it is about to close: then uvloop's refuses everything."""
        return None if self._transport is None or self._transport.is_closing() else self._transport

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        if not self._complete and self._error is None:
            self._error = Lost(reason)
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _tick(self) -> None:
        self._timer = None
        transport = self._open()
        if transport is None:
            return
        now = self._loop.time()
        left_s = self._stall_s
        if self._busy:
            unsent = transport.get_write_buffer_size()
            if self._paused or unsent < self._unsent:
                self._heard_at = now
            self._unsent = unsent
            left_s += self._heard_at - now
            if left_s <= 0:
                self._fail(f"it was silent for {self._stall_s:g} s")
                return
        elif now - self._heard_at >= KEEP_S:
            self.abort()
            return
        self._timer = self._loop.call_later(left_s, self._tick)

    def _off(self) -> None:
        """It is no longer of use: not to the timer, and not among the idle ones."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        connections = self._idle.get(self._address)
        if connections and self in connections:
            connections.remove(self)
            if not connections:
                del self._idle[self._address]

    # Of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """The other side has closed, or this one has."""
        self._transport = None
        self._off()
        if self._busy and not self._complete and self._error is None:
            if self.status and self._until_eof and error is None:
                self._complete = True
            else:
                self._error = self._closed()
        self._wake()

    def _closed(self) -> Lost:
        unheard = not (self.status or self._between_bytes)
        at_once = self._loop.time() - self._heard_at < RACE_S
        return (ClosedBefore if self._used and unheard and at_once else Lost)("it closed the connection")

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer; unasked, they end the connection."""
        if not self._busy or self._complete:
            self._keeps = False
            if not self._busy:
                self.abort()
            return
        parts = len(self._parts)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._keeps = False
            self._fail(f"no HTTP: {error}")
            return
        finally:
            if self._complete:  # of a second answer nothing stays
                del self._parts[self._part_count :]
        if self.status:  # a part of a head is not an answer
            self._heard_at = self._loop.time()
        if len(self._parts) > parts:
            self._between_bytes = 0
            self._buffered_bytes += len(data)
            if self._buffered_bytes > HIGH_WATER_BYTES and not self._complete and (transport := self._open()):
                self._paused = True
                transport.pause_reading()
        else:
            self._between_bytes += len(data)
        if max(self._between_bytes, self._head_bytes) > MAX_HEAD_BYTES:
            self._complete = self._keeps = False
            self._fail("its head or its trailers are too long")
            return
        if self.status:
            self._wake()

    # Of httptools.

    def on_message_begin(self) -> None:
        """A second answer to one request is none."""
        if self._complete:
            self._keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer."""
        self._head_bytes += len(name) + len(value)
        if not self.status and self._head_bytes <= MAX_HEAD_BYTES:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is whole; one with a 1xx status only announces another."""
        if self._complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            self.headers = {}
            return
        self.status = status
        self._keeps = self._parser.should_keep_alive()
        self._until_eof = b"content-length" not in self.headers and b"transfer-encoding" not in self.headers

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._interim:
            self._interim = False
        elif not self._complete:
            self._complete = True
            self._part_count = len(self._parts)
