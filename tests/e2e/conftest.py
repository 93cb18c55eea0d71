"""One whole Hydrant for all end-to-end tests that need it, and two models: a small real one and a tiny random one."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.leaks import assert_none_in_logs
from support.postgres import PostgresServer, postgres_server
from support.stack import Stack, wait_for

from cli.services import ROOT

__all__ = ["postgres_server"]

MODELS = Path.home() / ".cache/hydrant/models"


def _prepare(name: str, *options: str) -> Path:
    path = MODELS / name
    command = [ROOT / ".venv-engine/bin/python", "-m", "engine.prepare_model", "--out", path, *options]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    return path


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct; made if it is not there."""
    return _prepare("SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """A random Llama of a few megabytes, for tests of what happens around the model."""
    return _prepare("tiny-llama", "--random-llama")


@contextmanager
def _running(**variables: str) -> Iterator[Stack]:
    # Short, because unix sockets lie below it.
    home = Path(tempfile.mkdtemp(prefix="hyt-"))
    running = Stack(home, **variables)
    secrets: dict[str, str] = {}
    try:
        running.start()
        yield running
        secrets = running.secrets()
    finally:
        left = running.stop()
        assert_none_in_logs(home, secrets)
        assert not left, "left behind:\n" + "\n".join(left)
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Every process of the Procfile. At its end nothing may be left behind."""
    with _running() as running:
        yield running


@pytest.fixture
def stack_on_postgres(postgres_server: PostgresServer) -> Iterator[Stack]:
    """One more, with Postgres instead of SQLite."""
    with postgres_server.new_schema() as url, _running(DATABASE_URL=url) as running:
        yield running


@pytest.fixture
def tiny(stack: Stack, tiny_llama: Path) -> Iterator[Callable[..., str]]:
    """Registers the tiny model under a name; at the test's end nothing of it may run."""
    made: list[str] = []

    def register(name: str, source: Path = tiny_llama, **options: object) -> str:
        made.append(stack.register(name, source, **{"keep_alive_s": 600, **options}))
        return made[-1]

    yield register
    stack.end(*made)
    wait_for("no engine process", lambda: not stack.engine_processes(), 30)
    stack.balance_books()
