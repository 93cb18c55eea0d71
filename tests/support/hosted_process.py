"""The real hosted process (litellm), started once for a test module."""

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
from support.gateway_process import HOSTED_SECRET

START_SECONDS = 60.0


@pytest.fixture(scope="module")
def hosted_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a running hosted process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("hosted") / "log"
    environ = os.environ | {"HYDRANT_HOSTED_SECRET": HOSTED_SECRET, "HYDRANT_HOSTED_PORT": str(port)}
    root = Path(__file__).parent.parent.parent
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.hosted"], cwd=root, env=environ, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _until_healthy(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url + "/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the hosted process did not start: {log.read_text()}") from None
            time.sleep(0.1)
