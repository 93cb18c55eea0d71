"""Starts what is measured, each on its core, and waits until it answers."""

from __future__ import annotations

import asyncio
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.gateway.client import LoadError
from bench.lab.node import ROOT
from bench.lab.processes import Processes

END_WITHIN_S = 30.0
PYTHON = ROOT / ".venv/bin/python"


class Servers:
    """Processes that end with the benchmark; their logs lie in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._processes = Processes()

    def start(
        self, name: str, core: int, command: Sequence[str | Path], env: Mapping[str, str], *, nice: int = 0
    ) -> subprocess.Popen[bytes]:
        """Start a process that runs on `core` only."""
        pinned = ["taskset", "--cpu-list", str(core), "nice", "-n", str(nice), *command]
        process = self._processes.start(pinned, env=env, cwd=ROOT, log=self.home / f"{name}.log")
        group = Path(f"/proc/{process.pid}/autogroup")
        if nice and group.exists():
            # Where Linux weighs sessions against each other (sched(7), autogroups), `nice` alone counts within one.
            group.write_text(str(nice))
        return process

    async def until_up(self, name: str, process: subprocess.Popen[bytes], url: str, within_s: float) -> float:
        """Wait until `url` answers 200; the seconds that it took. Raises LoadError with the end of the log."""
        began = time.perf_counter()
        while not await asyncio.to_thread(_answers, url):
            if process.poll() is not None or time.perf_counter() - began > within_s:
                log = self.home / f"{name}.log"
                raise LoadError(f"{name} did not come up within {within_s:.0f} s:\n{_end_of(log)}")
            await asyncio.sleep(0.005)
        return time.perf_counter() - began

    async def end(self, process: subprocess.Popen[bytes]) -> None:
        """End one of them before the others, and wait for it."""
        process.terminate()
        await asyncio.to_thread(process.wait, END_WITHIN_S)

    def close(self) -> None:
        """End all of them."""
        self._processes.end()
        self._processes.kill()
        self._processes.reap()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own server on 127.0.0.1
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
