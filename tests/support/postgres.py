"""A private Postgres for tests: the server that the pgserver package carries, on a unix socket, in its own directory.

The binaries are run directly: the package's own launcher would make a system user and leave the server behind when the
tests are killed. Here the server is our child, and dies with us.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from support.leaks import plant

START_SECONDS = 30.0
STOP_SECONDS = 10.0
# Postgres refuses to run as root; any other user will do for a throw-away server.
UNPRIVILEGED_USER = "nobody"
# The server trusts whoever reaches its socket; the password is there to be looked for where it does not belong.
PASSWORD = plant("the database's password", "password-of-the-database")


class PostgresServer:
    """One postgres process; `new_schema` gives an empty place and its URL."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._schemas = 0
        self._as_user: list[str] = []
        self._binaries = Path()

    def start(self) -> PostgresServer:
        """Makes the data directory, starts the server and waits until it answers; fails with its log."""
        binaries = _binaries()
        if os.geteuid() == 0:
            shutil.chown(self.directory, UNPRIVILEGED_USER)
            self._as_user = ["--reuid", UNPRIVILEGED_USER, "--regid", "nogroup", "--clear-groups"]
            if subprocess.run(self._setpriv("test", "-x", str(binaries / "postgres")), check=False).returncode != 0:
                # The environment lies in a home directory closed to others.
                binaries = shutil.copytree(binaries.parent, self.directory / "postgres") / "bin"
        self._binaries = binaries
        initdb = [str(binaries / "initdb"), "-D", str(self._data), "-U", "hydrant", "-A", "trust", "-E", "UTF8", "-N"]
        subprocess.run(self._setpriv(*initdb, "--no-locale"), check=True, stdout=subprocess.DEVNULL, cwd=self.directory)
        return self._run()

    def crash(self) -> None:
        """SIGKILL, as the kernel kills when memory is short; what was committed synchronously is kept."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def restart(self) -> PostgresServer:
        """Starts the server again over its data. The crashed one's children end within moments; until then it waits."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self._run()
            except RuntimeError as error:
                if "still in use" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _run(self) -> PostgresServer:
        log = open(self.directory / "log", "wb")  # noqa: SIM115 - the server keeps it
        with log:
            self._process = subprocess.Popen(
                # Listens on the socket only; nothing here needs to survive a power cut.
                self._setpriv(
                    str(self._binaries / "postgres"), "-D", str(self._data), "-k", str(self.directory),
                    "-c", "listen_addresses=", "-c", "fsync=off", "-c", "synchronous_commit=off",
                    "-c", "max_connections=60", "-c", "shared_buffers=32MB",
                ),
                stdout=log, stderr=log, cwd=self.directory,
            )  # fmt: skip
        self._wait_ready()
        return self

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self._dsn).close()
                return
            except psycopg.OperationalError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"postgres did not start: {(self.directory / 'log').read_text()}") from None
                time.sleep(0.02)

    @contextmanager
    def new_schema(self) -> Iterator[str]:
        """The URL of an empty schema, dropped at the end: as good as a database, and much faster to make."""
        self._schemas += 1
        name = f"test_{self._schemas}"
        self._execute(f"CREATE SCHEMA {name}")
        try:
            yield f"postgresql://hydrant:{PASSWORD}@/postgres?host={self.directory}&options=-csearch_path%3D{name}"
        finally:
            self._execute(f"DROP SCHEMA {name} CASCADE")

    def stop(self) -> None:
        """Ends the server at once, dropping every connection."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _setpriv(self, *command: str) -> list[str]:
        """`command`, unprivileged, and interrupted by the kernel should the tests die."""
        return ["setpriv", *self._as_user, "--pdeathsig", "INT", "--", *command]

    def _execute(self, statement: LiteralString) -> None:
        # A connection that a failed test left open must not hold up the next one.
        with psycopg.connect(self._dsn, autocommit=True, options="-c lock_timeout=10s") as connection:
            connection.execute(statement)

    @property
    def _dsn(self) -> str:
        return f"host={self.directory} user=hydrant dbname=postgres"


def _binaries() -> Path:
    package = importlib.util.find_spec("pgserver")  # importing it would make directories
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests; each takes its own schema."""
    # Not tmp_path: a unix socket's path may have 107 bytes at most, and another user must be able to reach it.
    directory = Path(tempfile.mkdtemp(prefix="hyd-postgres-"))
    server = PostgresServer(directory)
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(directory)
