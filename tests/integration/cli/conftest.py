"""`hydrant` as a person has it: a migrated SQLite, a Redis of its own, an environment that points to both."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy.orm import Session
from support.redis_server import RedisServer

from cli.main import cli
from registry.db import make_engine, make_session_factory, session_scope
from registry.migrate import upgrade


class Hydrant:
    """Runs commands in this process and keeps what they printed."""

    def __init__(self, home: Path, redis: RedisServer) -> None:
        self.home = home
        self.redis = redis
        self.printed: list[str] = []

    def run(self, *words: str, expect: int = 0) -> Result:
        """Run one command; its exit status must be `expect`, and a defect of the program is raised as it is."""
        result = CliRunner().invoke(cli, list(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == expect, f"{words}: {result.exit_code}\n{result.output}"
        self.printed.append(result.output)
        return result

    def json(self, *words: str, expect: int = 0) -> Any:
        """Run one command with --json; what it printed must be one document."""
        return json.loads(self.run(*words, "--json", expect=expect).stdout)

    @contextmanager
    def sql(self) -> Iterator[Session]:
        """A session on the same database, committed at the end."""
        engine = make_engine(f"sqlite:///{self.home}/hydrant.db")
        try:
            with session_scope(make_session_factory(engine)) as session:
                yield session
        finally:
            engine.dispose()

    def snapshot(self) -> dict[str, Any]:
        """What the gateways read."""
        with self.redis.client() as client:
            found = client.get("hyd:snapshot")
        assert isinstance(found, str)
        document: dict[str, Any] = json.loads(found)
        return document

    def woken(self) -> list[str]:
        """The tasks that wait for the controller, the latest first."""
        with self.redis.client() as client:
            messages = client.lrange("control", 0, -1)
        assert isinstance(messages, list)
        return [json.loads(message)["headers"]["task"] for message in messages]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database at this version's schema, to copy: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("cli") / "hydrant.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    engine.dispose()
    return path


@pytest.fixture
def bare(tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Hydrant:
    """An environment without a database yet."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for name in ("DATABASE_URL", "HYDRANT_KEY_PEPPER", "HYDRANT_NODE", "HYDRANT_NODE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HYDRANT_HOME", str(home))
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    return Hydrant(home, redis_server)


@pytest.fixture
def hydrant(bare: Hydrant, migrated: Path) -> Hydrant:
    """An environment with an empty database."""
    shutil.copy(migrated, bare.home / "hydrant.db")
    return bare


@pytest.fixture
def report() -> Callable[..., dict[str, Any]]:
    """Makes a noded's report of a CPU node."""

    def make(name: str, *, gbps: float = 1.0, memory_gb: float = 8.0, warm: bool = True) -> dict[str, Any]:
        return {
            "v": 1,
            "node": name,
            "boot_id": "boot",
            "seq": 1,
            "at_ms": 1,
            "devices": [{"index": 0, "kind": "cpu", "name": "CPU", "memory_bytes": int(memory_gb * 1e9), "cores": [0]}],
            "address": "127.0.0.1",
            "ports": [31000, 31099],
            "link_bps": int(gbps * 1e9 / 8),
            "store": {"bytes": 0, "limit_bytes": 10**9, "digests": []},
            "warm": {"ready": warm, "pid": 1, "engine": "sglang 0.5.23", "memory_bytes": 610_000_000},
            "stages": [],
        }

    return make
