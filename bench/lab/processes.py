"""Processes that end with the lab: in order when it is closed, at once when its owner is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.lab import tools

END_WITHIN_S = 5.0


class Processes:
    """Starts them and keeps them."""

    def __init__(self) -> None:
        # PR_SET_PDEATHSIG takes the thread that started a process for its parent: this one lives as long as we do.
        self._starter = ThreadPoolExecutor(1, "lab-starter")
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        pipe: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own.

        Output goes to the end of `log`, or nowhere; with `pipe`, standard output goes to the Popen's `stdout` instead.
        """
        dies_with_us = [tools.tool("setpriv"), "--pdeathsig", "KILL", *command]
        with (log or Path(os.devnull)).open("ab") as output:
            started = self._starter.submit(
                subprocess.Popen,
                dies_with_us,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else output,
                stderr=output,
                # Ctrl-C reaches the owner alone, who ends the others in order.
                start_new_session=True,
            ).result()
        self._started.append(started)
        return started

    def end(self) -> None:
        """Ask all of them to end, and wait a while for them."""
        for process in self._started:
            process.terminate()
        deadline = time.monotonic() + END_WITHIN_S
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - time.monotonic()))

    def kill(self) -> None:
        """Kill those that are left."""
        for process in self._started:
            process.kill()

    def reap(self) -> None:
        """All of them have ended or been killed by now: none stays a zombie. Nothing can be started after this."""
        self._starter.shutdown()
        for process in self._started:
            process.wait(END_WITHIN_S)
            if process.stdout is not None:
                process.stdout.close()
