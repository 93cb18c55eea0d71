"""An HTTP range server that counts what it sends, and misbehaves as it is told to: a weight store with faults."""

from __future__ import annotations

import fcntl
import random
import re
import socket
import ssl
import struct
import termios
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_STEP = 16384


class RangeServer:
    """Serves a directory on 127.0.0.1 with byte ranges, over HTTPS with `tls`. `sent` counts body bytes by file, and
    `sending` is how many bodies are under way, `sending_most` how many were at a time.

    `hold_after` makes the bodies of a file wait, after that many bytes each, for `released` (and then breaks them off
    when `cut_held`); `break_every` cuts each body after that many bytes, `breaks` times in all; `status` answers weight
    requests with an error instead; `ranges` False ignores ranges and sends whole files.

    `resets` draws for each weight body whether, and after how many bytes, its connection is reset (`resets_made` counts
    them); `rate_bps` is what all bodies together may take; `silent` accepts requests and never answers; `shorten` sends
    only so many bytes of each weight body, by its Content-Length (and, with `shorten_range`, by its Content-Range);
    `flips` are bytes (file, offset) that are sent with a bit flipped, once each.
    """

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.sent: dict[str, int] = {}
        self.sending = self.sending_most = 0
        self.requests: list[tuple[str, int, int]] = []
        self.hold_after: dict[str, int] = {}
        self.released = threading.Event()
        self.cut_held = False
        self.break_every: int | None = None
        self.breaks = 0
        self.status: int | None = None
        self.ranges = True
        self.resets: random.Random | None = None
        self.resets_made = 0
        self.rate_bps: int | None = None
        self.silent = False
        self.shorten: int | None = None
        self.shorten_range = False
        self.flips: set[tuple[str, int]] = set()
        self._free_at = 0.0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                return

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                if outer.silent:
                    outer.released.wait(60)
                path = folder / unquote(self.path).lstrip("/")
                weights = path.suffix == ".safetensors"
                if outer.status is not None and weights:
                    self.reply_empty(outer.status)
                    return
                if not path.is_file():
                    self.reply_empty(404)
                    return
                size = path.stat().st_size
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if outer.ranges else None
                begin, end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
                if begin >= size and asked:
                    self.reply_empty(416)
                    return
                last = end - 1
                if body and weights and outer.shorten is not None:
                    end = min(end, begin + outer.shorten)
                    last = end - 1 if outer.shorten_range else last
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(end - begin))
                self.send_header("ETag", '"1"')
                self.send_header("Last-Modified", "Tue, 24 Nov 2026 00:00:00 GMT")
                if asked:
                    self.send_header("Content-Range", f"bytes {begin}-{last}/{size}")
                self.end_headers()
                if body:
                    with outer._lock:
                        outer.requests.append((path.name, begin, end))
                        outer.sending += 1
                        outer.sending_most = max(outer.sending_most, outer.sending)
                    with path.open("rb") as file:
                        file.seek(begin)
                        data = file.read(end - begin)
                    outer.send(self, path.name, outer.flipped(path.name, begin, data), weights)
                    with outer._lock:
                        outer.sending -= 1

            def reply_empty(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_address[1]}"

    def send(self, handler: BaseHTTPRequestHandler, name: str, data: bytes, weights: bool) -> None:
        """Send a body with the faults that were asked for."""
        limit = len(data)
        if weights and self.break_every is not None and self.breaks > 0 and limit > self.break_every:
            with self._lock:
                self.breaks -= 1
            limit = self.break_every
        reset_at = self._reset_at(limit) if weights else None
        limit = limit if reset_at is None else reset_at
        for at in range(0, limit, _STEP):
            piece = data[at : min(at + _STEP, limit)]
            if at >= self.hold_after.get(name, len(data)):
                self.released.wait(120)
                if self.cut_held:
                    limit = at
                    break
            self._pace(len(piece))
            with self._lock:
                self.sent[name] = self.sent.get(name, 0) + len(piece)
            try:
                handler.wfile.write(piece)
            except OSError:
                return
        if reset_at is not None:
            _reset(handler)
        elif limit < len(data):
            handler.close_connection = True
            handler.connection.close()

    def flipped(self, name: str, begin: int, data: bytes) -> bytes:
        """The body with the bits flipped that are to be, each for this once."""
        with self._lock:
            here = {flip for flip in self.flips if flip[0] == name and begin <= flip[1] < begin + len(data)}
            self.flips -= here
        changed = bytearray(data)
        for _, offset in here:
            changed[offset - begin] ^= 1
        return bytes(changed)

    def _reset_at(self, size: int) -> int | None:
        with self._lock:
            if self.resets is None or size == 0 or self.resets.random() < 0.5:
                return None
            self.resets_made += 1
            return self.resets.randrange(size)

    def _pace(self, size: int) -> None:
        """Wait for this piece's turn on the one slow line that all bodies share."""
        with self._lock:
            if self.rate_bps is None:
                return
            self._free_at = max(self._free_at, time.monotonic()) + size / self.rate_bps
            wait = self._free_at - time.monotonic()
        time.sleep(max(0.0, wait))

    def weight_bytes(self) -> int:
        """Body bytes of weight files sent so far."""
        return sum(size for name, size in self.sent.items() if name.endswith(".safetensors"))

    def close(self) -> None:
        """Stop serving."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    """End the connection by RST, when all that was sent has arrived: a byte that is lost then, the reader lost."""
    connection = handler.connection
    handler.close_connection = True
    deadline = time.monotonic() + 5
    while struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0] and time.monotonic() < deadline:
        time.sleep(0.001)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Past http.server's own orderly shutdown, which would send FIN instead.
    socket.socket(fileno=connection.detach()).close()
