"""Registering from an HTTP server: byte ranges, and a readable reason when the server will not do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from support.safetensors_writer import write_model

from registry.errors import SourceError
from registry.source_reader import check_source
from registry.sources import inspect_source


class RangeServer(ThreadingHTTPServer):
    """Serves a directory by byte ranges; `mode` makes it misbehave."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), RangeHandler)
        self.root = root
        self.mode = "ranges"
        self.bytes_sent = 0

    @property
    def url(self) -> str:
        """Where the directory is."""
        return f"http://127.0.0.1:{self.server_port}/models/tiny"


class RangeHandler(BaseHTTPRequestHandler):
    """HEAD and ranged GET."""

    protocol_version = "HTTP/1.1"
    server: RangeServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Tests need no access log."""

    def _answer(self, *, body: bool) -> None:
        path = self.server.root / unquote(self.path).removeprefix("/models/tiny/")
        if self.server.mode == "forbidden":
            self.send_response(HTTPStatus.FORBIDDEN)
            self._finish(b"")
            return
        if not path.is_file():
            self.send_response(HTTPStatus.NOT_FOUND)
            self._finish(b"")
            return
        data = path.read_bytes()
        wanted = self.headers.get("Range")
        if wanted is None or self.server.mode == "no ranges":
            self.send_response(HTTPStatus.OK)
            self._finish(data, body=body)
            return
        first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self._finish(data[first : last + 1], body=body)

    def _finish(self, data: bytes, *, body: bool = True) -> None:
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"one"')
        self.send_header("Last-Modified", "Tue, 24 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if body:
            self.wfile.write(data)
            self.server.bytes_sent += len(data)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    write_model(tmp_path, tied=True)
    with RangeServer(tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join(10)


def test_http_gives_the_same_manifest_as_the_directory(server: RangeServer) -> None:
    assert inspect_source(server.url) == inspect_source(str(server.root))


BUCKETS = {
    "s3": {
        "AWS_ENDPOINT_URL": "{url}", "AWS_REGION": "r", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
    },
    "gs": {"GOOGLE_BASE_URL": "{url}", "GOOGLE_SKIP_SIGNATURE": "true"},
    "az": {"AZURE_ENDPOINT": "{url}", "AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_SKIP_SIGNATURE": "true"},
}  # fmt: skip
"""What obstore reads of the environment, so that the server stands for a bucket: reads of objects are ranged GETs."""


@pytest.mark.parametrize("scheme", BUCKETS)
def test_a_bucket_gives_the_same_manifest_as_the_directory(
    server: RangeServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in BUCKETS[scheme].items():
        monkeypatch.setenv(name, value.format(url=f"http://127.0.0.1:{server.server_port}"))
    assert inspect_source(check_source(f"{scheme}://models/tiny")) == inspect_source(str(server.root))


def test_every_byte_is_read_once(server: RangeServer) -> None:
    inspect_source(server.url + "/")
    stored = sum(path.stat().st_size for path in server.root.iterdir())
    # config.json and the index are read twice: for their content, and for the digest of a small file.
    assert server.bytes_sent <= stored + (server.root / "config.json").stat().st_size


def test_a_missing_model_says_what_is_missing(server: RangeServer) -> None:
    with pytest.raises(SourceError, match=r"no config\.json"):
        inspect_source(server.url.replace("tiny", "absent"))


@pytest.mark.parametrize("mode", ["forbidden", "no ranges"])
def test_a_server_that_will_not_do_is_named(server: RangeServer, mode: str) -> None:
    server.mode = mode
    with pytest.raises(SourceError) as caught:
        inspect_source(server.url)
    assert server.url in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


def test_a_server_that_is_not_there_is_named(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.source_reader._RETRY", {"max_retries": 0})
    url = server.url.replace(str(server.server_port), "1")
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:1"):
        inspect_source(url)
