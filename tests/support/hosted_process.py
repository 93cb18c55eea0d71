"""The real hosted process (litellm), started once for a test module, or for a test that kills it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_provider import PROVIDER_KEY
from support.gateway_process import HOSTED_SECRET

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 60.0


class HostedProcess:
    """One `python -m gateway.hosted`. `url` stays the same over `kill` and `start`.

    `stall_s`: how long it bears a worker's or provider's silence; a stand-in needs no time for an answer.
    """

    def __init__(self, directory: Path, stall_s: int = 2) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = directory / "log"
        self._environ = os.environ | {
            "HYDRANT_HOSTED_SECRET": HOSTED_SECRET,
            "HYDRANT_HOSTED_PORT": str(port),
            "HYDRANT_STALL_TIMEOUT_S": str(stall_s),
            "STAND_IN_API_KEY": PROVIDER_KEY,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; `until_healthy` waits for it."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway.hosted"], cwd=ROOT, env=self._environ, stdout=output, stderr=output
            )

    def until_healthy(self) -> None:
        """Waits until it answers; fails with its log."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the hosted process did not start: {self._log.read_text()}") from None
                time.sleep(0.1)

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    def kill(self) -> None:
        """Ends it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ends it in order, if it runs."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


def _running(directory: Path) -> Iterator[HostedProcess]:
    process = HostedProcess(directory)
    process.start()
    try:
        process.until_healthy()
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def hosted_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a running hosted process."""
    for process in _running(tmp_path_factory.mktemp("hosted")):
        yield process.url


@pytest.fixture
def own_hosted(tmp_path: Path) -> Iterator[HostedProcess]:
    """A hosted process of one test's own."""
    yield from _running(tmp_path)
