"""The installed command as a process of its own: exit status, streams, pipes that close."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HYDRANT = Path(sys.prefix) / "bin" / "hydrant"
CHECKOUT = str(Path(__file__).parents[3])
"""Of several checkouts that share an environment, this one is tested."""


def hydrant_process(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(HYDRANT), *words],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": CHECKOUT},
    )


@pytest.mark.parametrize(
    ("words", "status"),
    [(["tenant", "list"], 0), (["tenant", "show", "nobody"], 1), (["tenant", "fly"], 2), (["--help"], 0)],
)
def test_exit_status(hydrant, words: list[str], status: int) -> None:
    done = hydrant_process(*words)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == (status == 0)


def test_one_document_on_standard_output_whatever_happens(hydrant) -> None:
    assert json.loads(hydrant_process("tenant", "create", "acme", "--json").stdout)["tenant"]["name"] == "acme"
    hydrant.redis.kill()
    kept = hydrant_process("key", "create", "acme", "--name", "k", "--json")
    assert kept.returncode == 0
    document = json.loads(kept.stdout)
    assert document["plaintext"].startswith("hyd-")
    assert document["warnings"]
    assert document["plaintext"] not in kept.stderr


def test_without_a_terminal_nothing_waits_for_an_answer(hydrant) -> None:
    done = hydrant_process("db", "downgrade", "base")
    assert done.returncode == 2
    assert "--yes" in done.stderr


def test_a_reader_that_leaves_is_no_error(hydrant) -> None:
    hydrant.run("tenant", "create", "acme")
    for _ in range(30):
        hydrant.run("tenant", "top-up", "acme", "1", "--reason", "x" * 490)
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as broken:
        done = subprocess.run(
            [str(HYDRANT), "usage", "csv", "--ledger"],
            stdout=broken,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_made_is_said(hydrant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRANT_HOME", "/proc/hydrant")
    done = hydrant_process("tenant", "list")
    assert done.returncode == 1
    assert "/proc/hydrant" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_up_names_what_keeps_it_from_starting(redis_server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRANT_HOME", str(redis_server.directory / "h"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("HYDRANT_GATEWAY_PORT", str(port))
        done = hydrant_process("up")
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr or "engine's environment is missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short TMPDIR: unix sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="hy") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)


def test_a_demo_that_cannot_start_says_why_in_one_line_and_leaves_nothing(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("HYDRANT_GATEWAY_PORT", str(taken.getsockname()[1]))
        done = hydrant_process("demo")
    assert done.returncode == 1
    assert "is taken" in done.stderr or "engine's environment is missing" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("command", ["demo", "up"])
def test_a_bad_variable_is_one_line_for_demo_and_up(
    command: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRANT_HOME", str(temporary / "home"))
    monkeypatch.setenv("HYDRANT_GATEWAY_PORT", "abc")
    done = hydrant_process(command)
    assert done.returncode == 1
    assert "HYDRANT_GATEWAY_PORT" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert json.loads(hydrant_process(command, "--json").stdout)["error"]["field"] == "HYDRANT_GATEWAY_PORT"
    assert list(temporary.iterdir()) == []
