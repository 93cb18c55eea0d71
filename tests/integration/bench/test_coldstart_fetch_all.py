"""The naive way's fetch, from the lab's file server: every byte of every file, or a clear failure."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine_node import free_ports

from bench.coldstart.fetch_all import RANGE_BYTES, fetch_all
from bench.lab import store
from bench.lab.node import ROOT


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a file that takes several ranges, a small and an empty one."""
    folder = tmp_path / "models/m"
    folder.mkdir(parents=True)
    (folder / "large").write_bytes(bytes(range(256)) * (2 * RANGE_BYTES // 256) + b"end")
    (folder / "small").write_bytes(b"{}")
    (folder / "empty").touch()
    return folder


@pytest.fixture
def url(model: Path) -> Iterator[str]:
    """Where it is served."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "bench.lab.store", str(model.parent), "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().strip() == store.READY
            yield f"http://127.0.0.1:{port}/m"
        finally:
            server.terminate()


def test_every_byte_comes(url: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    names = ["empty", "large", "small"]
    assert fetch_all(url, out, names) == sum((model / name).stat().st_size for name in names)
    for name in names:
        assert (out / name).read_bytes() == (model / name).read_bytes()


def test_a_pace_holds_all_connections_together(url: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    fetch_all(url, tmp_path, ["large"], rate_bps=4 * RANGE_BYTES)
    # Two ranges at four a second: a rate is a promise not to be faster; how much slower is the machine's affair.
    assert time.monotonic() - begun >= 0.45


def test_a_missing_file_is_named(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="/m/nothing: 404"):
        fetch_all(url, tmp_path, ["nothing"])
