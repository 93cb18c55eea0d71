"""Hydrant's Celery processes as the Procfile runs them, in a home of their own, started and ended by a test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.leaks import assert_none_in_logs

START_SECONDS = 30.0
STOP_SECONDS = 15.0
ROOT = Path(__file__).resolve().parents[2]


class Celery:
    """One process. Its output goes to a file, which every failure shows."""

    def __init__(self, name: str, arguments: list[str], env: dict[str, str], log: Path, ready: str) -> None:
        self.name = name
        self._log = log
        self._ready = ready
        with log.open("ab") as output:
            self._seen = output.tell()
            self.process = subprocess.Popen(
                [str(Path(sys.prefix) / "bin" / "celery"), "-A", "tasks.app", *arguments],
                env=env, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=ROOT,
            )  # fmt: skip

    @property
    def output(self) -> str:
        """What it has printed since this start."""
        return self._log.read_bytes()[self._seen :].decode(errors="replace")

    def wait_ready(self) -> Celery:
        """Wait until it works; raises with its output."""
        wait_until(lambda: self._ready in self.output or self.process.poll() is not None, START_SECONDS, self._told)
        if self.process.poll() is not None and self._ready not in self.output:
            raise AssertionError(self._told())
        return self

    def wait_killed(self) -> None:
        """Wait until it has died by SIGKILL."""
        wait_until(lambda: self.process.poll() is not None, START_SECONDS, self._told)
        assert self.process.returncode == -signal.SIGKILL, self._told()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def _told(self) -> str:
        return f"{self.name}, exit status {self.process.poll()}:\n{self.output[-4000:]}"


class Processes:
    """The processes of one test. `home` is short: unix sockets live in it."""

    def __init__(self, home: Path, redis_url: str, database_url: str) -> None:
        self.home = home
        self._urls = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
        self.all: list[Celery] = []

    def controller(self, *, name: str = "controller", failpoint: str = "") -> Celery:
        """The controller's worker."""
        return self._worker(name, "control", failpoint=failpoint)

    def ledger(self, *, failpoint: str = "") -> Celery:
        """The ledger's worker."""
        return self._worker("ledger", "ledger", failpoint=failpoint)

    def node(self, node: str, *, failpoint: str = "") -> Celery:
        """A node's worker: it gets no database."""
        pool = ["-P", "threads", "-c", "4"]
        return self._worker(node, f"node.{node}", pool=pool, node=node, failpoint=failpoint)

    def beat(self) -> Celery:
        """The clock."""
        return self._start("beat", ["beat", "-s", str(self.home / "beat"), "-l", "INFO"], self._env(), "beat: Starting")

    def end(self) -> None:
        """End all at once."""
        for process in self.all:
            process.kill()

    def _worker(
        self, name: str, queue: str, *, pool: list[str] | None = None, node: str = "", failpoint: str = ""
    ) -> Celery:
        arguments = ["worker", "-Q", queue, *(pool or ["-P", "solo"]), "-n", f"{name}@hydrant"]
        env = self._env() | ({"HYDRANT_FAILPOINT": failpoint} if failpoint else {})
        if node:
            env["HYDRANT_NODE"] = node
            del env["DATABASE_URL"]
        arguments += ["--without-gossip", "--without-mingle", "-l", "INFO"]
        return self._start(name, arguments, env, f"{name}@hydrant ready")

    def _start(self, name: str, arguments: list[str], env: dict[str, str], ready: str) -> Celery:
        process = Celery(name, arguments, env, self.home / f"{name}.log", ready)
        self.all.append(process)
        return process

    def _env(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HYDRANT_")}
        return kept | self._urls | {"HYDRANT_HOME": str(self.home), "PYTHONPATH": str(ROOT)}


@contextmanager
def processes(redis_url: str, database_url: str) -> Iterator[Processes]:
    """Processes that all end with the block."""
    home = Path(tempfile.mkdtemp(prefix="hyd-"))
    started = Processes(home, redis_url, database_url)
    try:
        yield started
    finally:
        started.end()
        assert_none_in_logs(home)
        shutil.rmtree(home)


def wait_until(reached: Callable[[], Any], seconds: float, told: Callable[[], str] = str) -> Any:
    """Wait for a true answer, and return it; fails with `told()` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := reached()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not reached within {seconds} s. {told()}")
        time.sleep(0.05)
    return answer
