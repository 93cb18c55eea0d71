"""One client's connection: HTTP/1.1, as uvicorn's server wants it spoken, with bounds on what a client may do.

uvicorn keeps what it is good at: processes, sockets, signals, the way to drain. Its own protocol costs more of a
request than most of what the gateway does for it (docs/adr/0016), reads a head without an end into memory for ever, and
lets a client that sends or fetches almost nothing keep its connection, and with it a whole answer in memory, for as
long as it likes. What is refused here has not reached the application, so it is told in OpenAI's shape from here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import lru_cache
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from uvicorn import Config
from uvicorn.protocols.utils import get_remote_addr, is_ssl
from uvicorn.server import ServerState

from gateway.clients.exchange import Exchange
from gateway.clients.reply import Scope
from gateway.errors import ApiError

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers; also what may come between two parts of a body (chunk sizes, trailers)."""
HEAD_SECONDS = 30.0
"""From a connection's beginning, or from the first byte of a later request, to the end of the head."""
LINGER_SECONDS = 5.0
"""How long the rest of a body is taken, and thrown away, when its request has been answered already: a client that is
cut off while it sends may miss the answer."""
FETCH_SECONDS = 600.0
"""An answer that is written and not fetched: within this time at least half of what waits for the client must go."""


class Connection(asyncio.Protocol):
    """uvicorn makes one for each connection. Requests that come before the one before them is answered wait in line."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.is_full = False
        """Whether the client does not fetch what is written."""
        self._app = cast(Any, config.loaded_app)
        self._keep_s = config.timeout_keep_alive
        self._server = server_state
        self._parser = HttpRequestParser(self)
        # A request that says it is the last is answered, whatever comes behind it.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._client: tuple[str, int] | None = None
        self._scheme = "http"
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        # What is read now, what is answered now, and what waits for that.
        self._read: Exchange | None = None
        self._current: Exchange | None = None
        self._line: deque[tuple[Exchange, Scope]] = deque()
        self._reading = True
        self._writable = asyncio.Event()
        self._writable.set()
        self._in_head = True
        self._in_body = False
        self._unparsed_bytes = 0
        self._idle_since = 0.0
        self._idle: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None

    # Of uvicorn's server.

    def shutdown(self) -> None:
        """The server stops: no request after the one that is being answered."""
        if self._current is None:
            self.transport.close()
        else:
            self._current.keeps = False

    # Of its exchanges.

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer has."""
        return self._server.default_headers

    async def drained(self) -> None:
        """Waits until it has fetched nearly all of it, or has gone."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        """Has the client wait."""
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Takes more from the client."""
        if not self._reading and not self._line and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """The application has given the whole answer."""
        self._server.total_requests += 1
        self._current = None
        if not exchange.keeps:
            self.transport.close()
        if self.transport.is_closing():
            return
        if self._in_body and self._read is exchange:
            self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        if self._line:
            self._start(*self._line.popleft())
        else:
            self._idle_since = self.loop.time()
            if self._idle is None:
                self._idle = self.loop.call_later(self._keep_s, self._check_idle)
        self.resume_reading()

    # Of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast(asyncio.Transport, transport)
        self._server.connections.add(cast(Any, self))
        self._client = get_remote_addr(self.transport)
        self._scheme = "https" if is_ssl(self.transport) else "http"
        self._expect_within(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was sent away."""
        self._server.connections.discard(cast(Any, self))
        self._expect_nothing()
        self._stop_watching()
        if self._idle is not None:
            self._idle.cancel()
        self._line.clear()
        if self._current is not None:
            self._current.leave()
        self._fetches()

    def data_received(self, data: bytes) -> None:
        """Of any number of requests."""
        self._unparsed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            # Nothing else is spoken here: what came with it is answered, and what follows is no HTTP.
            if (asking := self._line[-1][0] if self._line else self._current) is not None:
                asking.keeps = False
        except HttpParserError:
            self._refuse(400, "invalid_http", "This is not a valid HTTP/1.1 request.")
        if self.transport.is_closing():
            return
        if self._unparsed_bytes > MAX_HEAD_BYTES:
            self._refuse(
                431, "request_head_too_large", f"The request's line and headers are larger than {MAX_HEAD_BYTES} bytes."
            )
        elif self._in_head and self._unparsed_bytes and self._deadline is None:
            self._expect_within(HEAD_SECONDS)

    def pause_writing(self) -> None:
        """The client does not fetch what is written."""
        self.is_full = True
        self._writable.clear()
        self._watch_fetching()

    def resume_writing(self) -> None:
        """It has fetched nearly all of it."""
        self._stop_watching()
        self._fetches()

    # Of httptools.

    def on_message_begin(self) -> None:
        """A request."""
        self._url, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer, which is nobody's."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head, self._in_body, self._unparsed_bytes = False, True, 0
        self._expect_nothing()
        path, raw_path, query = _split(self._url)
        version = self._parser.get_http_version()
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "scheme": self._scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._client,
        }
        keeps = version != "1.0" and self._parser.should_keep_alive()
        exchange = self._read = Exchange(self, scope, keeps=keeps)
        if self._current is None:
            self._start(exchange, scope)
        else:
            self._line.append((exchange, scope))
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._unparsed_bytes = 0
        assert self._read is not None
        self._read.feed(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._in_head, self._in_body, self._unparsed_bytes = True, False, 0
        self._expect_nothing()
        assert self._read is not None
        self._read.feed_end()
        self._read = None

    def _start(self, exchange: Exchange, scope: Scope) -> None:
        self._current = exchange
        task = self.loop.create_task(self._run(exchange, scope))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    async def _run(self, exchange: Exchange, scope: Scope) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            log.exception("a request was not answered")
        finally:
            exchange.break_off()

    def _check_idle(self) -> None:
        self._idle = None
        if self._current is not None or (self._in_head and self._unparsed_bytes):
            return
        left_s = self._idle_since + self._keep_s - self.loop.time()
        if left_s > 0:
            self._idle = self.loop.call_later(left_s, self._check_idle)
        else:
            self.transport.close()

    def _expect_within(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._late)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        if self._unparsed_bytes:
            self._refuse(408, "request_timeout", f"The request's head did not arrive within {HEAD_SECONDS:.0f} s.")
        else:
            self.transport.close()

    def _fetches(self) -> None:
        self.is_full = False
        self._writable.set()

    def _watch_fetching(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._watch = self.loop.call_later(FETCH_SECONDS, self._check_fetching, left)

    def _check_fetching(self, before: int) -> None:
        if self.transport.get_write_buffer_size() > before // 2:
            self.transport.abort()
        else:
            self._watch_fetching()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Tells it, unless an answer is being written or awaited, and closes."""
        self._expect_nothing()
        if not (self._line or (self._current is not None and self._current.started)):
            body = ApiError(status, message, code=code).openai_body()
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
                % (status, HTTPStatus(status).phrase.encode(), len(body), body)
            )
        if self._current is not None:
            self._current.leave()
        self.transport.close()


@lru_cache(64)
def _split(url: bytes) -> tuple[str, bytes, bytes]:
    """(path, path as it came, query) of a request's target. Raises HttpParserError."""
    parts = parse_url(url)
    path = parts.path.decode("ascii")
    return unquote(path) if "%" in path else path, parts.path, parts.query or b""
