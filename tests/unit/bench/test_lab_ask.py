"""The lab's client: what it makes of a stream, of servers that do not serve yet, and of the deadline."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from bench.lab import ask


def event(**chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n"


def text(content: str | None) -> bytes:
    return event(choices=[{"delta": {"content": content}}])


def follow(*lines: bytes) -> dict[str, Any]:
    seen: dict[str, Any] = {"first_token_s": None, "ended_s": None, "text": "", "token_s": []}
    ask.follow(lines, time.monotonic() + 10, seen)
    return seen


def test_a_stream_is_read_to_its_end() -> None:
    usage = event(choices=[], usage={"completion_tokens": 2})
    seen = follow(b": waiting\n", b"\n", text(None), text("Pa"), text("ris"), usage, b"data: [DONE]\n")
    assert seen["text"] == "Paris"
    assert seen["first_token_s"] <= seen["ended_s"]


def test_a_token_that_is_no_text_yet_counts(capsys: pytest.CaptureFixture[str]) -> None:
    half = event(choices=[{"delta": {"content": ""}}], usage={"completion_tokens": 1})
    role = event(choices=[{"delta": {"content": ""}}], usage={"completion_tokens": 0})
    seen = follow(role, half, text("é"), b"data: [DONE]\n")
    (told,) = capsys.readouterr().out.splitlines()
    told = json.loads(told)
    assert (told["text"], told["first_token_s"], told["ended_s"]) == ("", seen["first_token_s"], None)


def test_a_stream_that_is_cut_or_tells_an_error_failed() -> None:
    with pytest.raises(ask.Failed, match="without"):
        follow(text("Pa"))
    with pytest.raises(ask.Failed, match="worker died"):
        follow(text("Pa"), event(error={"message": "worker died"}))


@contextmanager
def server(port: int, statuses: Iterator[int]) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = next(statuses)
            self.send_response(status)
            self.end_headers()
            if status == 200:
                assert body["stream"] is True
                self.wfile.write(text(self.headers["Authorization"]) + b"data: [DONE]\n")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", port), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def start(port: int) -> Callable[..., subprocess.Popen[str]]:
    def started(deadline_s: float) -> subprocess.Popen[str]:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        options = ["--body", "{}", "--key", "secret", "--deadline-s", str(deadline_s)]
        return subprocess.Popen([sys.executable, ask.__file__, url, *options], stdout=subprocess.PIPE, text=True)

    return started


def test_it_asks_again_until_it_is_served(port: int, start: Callable[..., subprocess.Popen[str]]) -> None:
    asking = start(20)
    time.sleep(0.2)
    with server(port, iter([503, 503, 200])):
        printed, _ = asking.communicate(timeout=20)
    first, seen = map(json.loads, printed.splitlines())
    assert asking.returncode == 0
    assert (first["first_token_s"], first["ended_s"]) == (seen["first_token_s"], None)
    assert (seen["text"], seen["error"]) == ("Bearer secret", None)
    assert seen["tries"] >= 3
    assert seen["asked_s"] < seen["sent_s"] <= seen["first_byte_s"] <= seen["first_token_s"] <= seen["ended_s"]


def test_it_gives_up_at_the_deadline(start: Callable[..., subprocess.Popen[str]]) -> None:
    asking = start(0.2)
    printed, _ = asking.communicate(timeout=20)
    assert asking.returncode == 1
    assert "not served within 0.2 s" in json.loads(printed)["error"]


def test_another_refusal_is_final(port: int, start: Callable[..., subprocess.Popen[str]]) -> None:
    with server(port, iter([401])):
        printed, _ = start(20).communicate(timeout=20)
    assert json.loads(printed)["error"].startswith("Failed: 401")
