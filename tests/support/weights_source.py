"""A model directory and the `prefetch` effect for it, and an HTTP range server that counts, breaks and vanishes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from engine.weights import load_spec
from engine.weights.spec import Prefetch


@dataclass
class Model:
    """Safetensors files in a directory; `tensors` in load order, as the effect lists them."""

    folder: Path
    tensors: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)

    def data(self, name: str) -> bytes:
        """The true bytes of a tensor."""
        tensor = next(tensor for tensor in self.tensors if tensor["name"] == name)
        return (self.folder / tensor["file"]).read_bytes()[tensor["begin"] : tensor["end"]]

    def effect(self, stage_id: str, names: Sequence[str] | None = None, **changes: Any) -> dict[str, Any]:
        """The prefetch effect of a stage with these tensors (all when None)."""
        return {
            "v": 1,
            "kind": "prefetch",
            "group_id": "grp_1",
            "version": 1,
            "stage_id": stage_id,
            "source": self.folder.as_uri(),
            "tensors": [t for t in self.tensors if names is None or t["name"] in names],
            "files": self.files,
            "config_overrides": {},
            "rate_bps": None,
        } | changes

    def request(self, stage_id: str, names: Sequence[str] | None = None, **changes: Any) -> Prefetch:
        """The effect, parsed."""
        return Prefetch.from_json(self.effect(stage_id, names, **changes))


def write_model(folder: Path, sizes: Sequence[int], per_file: int = 4, seed: int = 1) -> Model:
    """A model of U8 tensors `t000`, `t001`, ... of these sizes; inside a file they lie in reverse load order."""
    folder.mkdir(parents=True, exist_ok=True)
    model = Model(folder)
    rng = random.Random(seed)
    for number, start in enumerate(range(0, len(sizes), per_file)):
        file = f"model-{number:05d}.safetensors"
        chunk = list(enumerate(sizes))[start : start + per_file]
        header, at, bodies, entries = {}, 0, [], []
        for index, size in reversed(chunk):
            body = rng.randbytes(size)
            header[f"t{index:03d}"] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
            entries.append((index, at, body))
            bodies.append(body)
            at += size
        text = json.dumps(header).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(bodies))
        base = 8 + len(text)
        for index, offset, body in sorted(entries):
            model.tensors.append(
                {
                    "name": f"t{index:03d}",
                    "file": file,
                    "begin": base + offset,
                    "end": base + offset + len(body),
                    "dtype": "U8",
                    "shape": [len(body)],
                    "sha256": hashlib.sha256(body).hexdigest(),
                }
            )
    for name, content in (("config.json", b'{"layers": 2, "tie": true}'), ("tokenizer.json", b'{"vocab": {}}')):
        (folder / name).write_bytes(content)
        model.files.append({"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    return model


def read_back(load_spec_path: Path) -> dict[str, bytes]:
    """The bytes that an engine would see for each name of a verified stage."""
    found = {}
    for entry in load_spec.read(load_spec_path):
        with Path(entry.segment).open("rb") as file:
            file.seek(entry.offset)
            found[entry.name] = file.read(entry.nbytes)
    return found


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)


class RangeServer:
    """Serves a directory on 127.0.0.1 with byte ranges, over HTTPS with `tls`. `sent` counts body bytes by file.

    `hold_after` makes the bodies of a file wait, after that many bytes each, for `released` (and then breaks them off
    when `cut_held`); `break_every` cuts each body after that many bytes, `breaks` times in all; `status` answers weight
    requests with an error instead; `ranges` False ignores ranges and sends whole files.
    """

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self.sent: dict[str, int] = {}
        self.requests: list[tuple[str, int, int]] = []
        self.hold_after: dict[str, int] = {}
        self.released = threading.Event()
        self.cut_held = False
        self.break_every: int | None = None
        self.breaks = 0
        self.status: int | None = None
        self.ranges = True
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
                path = folder / self.path.lstrip("/")
                weights = path.suffix == ".safetensors"
                if outer.status is not None and weights:
                    self.reply_empty(outer.status)
                    return
                if not path.is_file():
                    self.reply_empty(404)
                    return
                data = path.read_bytes()
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if outer.ranges else None
                begin, end = (int(asked[1]), min(int(asked[2]) + 1, len(data))) if asked else (0, len(data))
                if begin >= len(data) and asked:
                    self.reply_empty(416)
                    return
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(end - begin))
                self.send_header("ETag", '"1"')
                self.send_header("Last-Modified", "Tue, 24 Nov 2026 00:00:00 GMT")
                if asked:
                    self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
                self.end_headers()
                if body:
                    with outer._lock:
                        outer.requests.append((path.name, begin, end))
                    outer.send(self, path.name, data[begin:end], weights)

            def reply_empty(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
        for at in range(0, limit, 16384):
            piece = data[at : min(at + 16384, limit)]
            if at >= self.hold_after.get(name, len(data)):
                self.released.wait(30)
                if self.cut_held:
                    limit = at
                    break
            with self._lock:
                self.sent[name] = self.sent.get(name, 0) + len(piece)
            try:
                handler.wfile.write(piece)
            except OSError:
                return
        if limit < len(data):
            handler.close_connection = True
            handler.connection.close()

    def weight_bytes(self) -> int:
        """Body bytes of weight files sent so far."""
        return sum(size for name, size in self.sent.items() if name.endswith(".safetensors"))

    def close(self) -> None:
        """Stop serving."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
