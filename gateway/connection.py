"""One client's connection: uvicorn's HTTP protocol, with the bounds that it does not set itself.

Without them a head without an end would be read into memory for ever, a client that sends or fetches almost nothing
would keep its connection, and with it a whole answer in memory, for as long as it likes. What is refused here has not
reached the application, so it is told in OpenAI's shape from here.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import ApiError

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers; also what may come between two parts of a body (chunk sizes, trailers)."""
HEAD_SECONDS = 30.0
"""From a connection's beginning, or from the first byte of a later request, to the end of the head."""
LINGER_SECONDS = 5.0
"""How long the rest of a body is taken, and thrown away, when its request has been answered already: a client that is
cut off while it sends may miss the answer."""
FETCH_SECONDS = 600.0
"""An answer that is written and not fetched: within this time at least half of what waits for the client must go."""


class Connection(HttpToolsProtocol):
    """uvicorn makes one for each connection."""

    _in_head = True
    _in_body = False
    _unparsed_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio's."""
        super().connection_made(transport)
        self._expect_within(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self._expect_nothing()
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unparsed_bytes > MAX_HEAD_BYTES:
            self._refuse(
                431, "request_head_too_large", f"The request's line and headers are larger than {MAX_HEAD_BYTES} bytes."
            )
        elif self._in_head and self._unparsed_bytes and self._deadline is None:
            self._expect_within(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        """The parser's."""
        self._in_head, self._in_body, self._unparsed_bytes = False, True, 0
        self._expect_nothing()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """The parser's."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser's."""
        self._in_head, self._in_body, self._unparsed_bytes = True, False, 0
        self._expect_nothing()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """uvicorn's."""
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """asyncio's: the client does not fetch what is written."""
        super().pause_writing()
        self._watch_fetching()

    def resume_writing(self) -> None:
        """asyncio's: it has fetched nearly all of it."""
        self._stop_watching()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's: what came is no HTTP."""
        self._refuse(400, "invalid_http", "This is not a valid HTTP/1.1 request.")

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
        """Tells it, unless an answer is being written, and closes."""
        self._expect_nothing()
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not (answering or self.pipeline):
            body = ApiError(status, message, code=code).openai_body()
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
                % (status, HTTPStatus(status).phrase.encode(), len(body), body)
            )
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.close()
