"""A private Redis for one test: the venv's own redis-server on a unix socket, in a directory of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

START_SECONDS = 10.0
STOP_SECONDS = 5.0


class RedisServer:
    """One redis-server process. `url` stays the same over `kill` and `start`; data survives only with `aof`."""

    def __init__(self, directory: Path, *, aof: bool = False) -> None:
        self.directory = directory
        self.aof = aof
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        """Starts the server and waits until it answers; fails with its log after `START_SECONDS`."""
        binary = Path(sys.prefix) / "bin" / "redis-server"
        log = self.directory / "redis.log"
        self._process = subprocess.Popen(
            [str(binary), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.directory), "--save", "",
             "--appendonly", "yes" if self.aof else "no", "--logfile", str(log)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return self
            except redis.ConnectionError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{binary} did not start: {log.read_text() if log.exists() else ''}") from None
                time.sleep(0.01)

    def client(self) -> redis.Redis:
        """A synchronous client that decodes answers to str; use it in a `with`."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def stop(self) -> None:
        """Ends the server in order (AOF flushed)."""
        self._end(graceful=True)

    def kill(self) -> None:
        """Ends the server as a crash would (SIGKILL)."""
        self._end(graceful=False)

    def _end(self, *, graceful: bool) -> None:
        if self._process is None:
            return
        if graceful:
            self._process.terminate()
        else:
            self._process.kill()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self.socket.unlink(missing_ok=True)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running, empty Redis without persistence."""
    yield from _running(aof=False)


@pytest.fixture
def durable_redis_server() -> Iterator[RedisServer]:
    """A running, empty Redis with AOF: what was written survives `kill` and `start`."""
    yield from _running(aof=True)


def _running(*, aof: bool) -> Iterator[RedisServer]:
    # Not tmp_path: a unix socket's path may have 107 bytes at most, and pytest's directories are long.
    directory = Path(tempfile.mkdtemp(prefix="hyd-redis-"))
    server = RedisServer(directory, aof=aof).start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)
