"""A node whose processes someone started here: what its noded tells, waited for in bounded time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.lab.tools import LabError
from engine.client import NodedClient, NodedUnavailable

START_S = 240.0
LOG_LINES = 25


class WatchedNode:
    """See the module. `noded` and `warm` are its processes while they are to run."""

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.name = home, name
        self.client = NodedClient.for_node(home, name)
        self.noded: subprocess.Popen[bytes] | None = None
        self.warm: subprocess.Popen[bytes] | None = None

    def answers(self) -> bool:
        """Whether noded answers."""
        try:
            self.client.report()
        except NodedUnavailable:
            return False
        return True

    def warm_ready(self) -> bool:
        """Whether noded sees a warm runtime that is ready."""
        return bool(self.client.report()["warm"]["ready"])

    def stage(self, stage_id: str) -> dict[str, Any]:
        """The stage as reported now. Raises LabError when noded does not know it."""
        for stage in self.client.report()["stages"]:
            if stage["stage_id"] == stage_id:
                return dict(stage)
        raise LabError(f"{self.name} has no stage {stage_id}")

    def wait_state(self, stage_id: str, *states: str, within_s: float = START_S) -> dict[str, Any]:
        """Wait, by long polls, until the stage is in one of `states`. Raises LabError when it ends otherwise."""
        deadline = time.monotonic() + within_s
        after = 0
        while True:
            report = self.client.events(after=after, wait_s=5)
            after = report["seq"]
            found = [stage for stage in report["stages"] if stage["stage_id"] == stage_id]
            if found and found[0]["state"] in states:
                return dict(found[0])
            if found and found[0]["state"] in ("failed", "gone"):
                raise LabError(f"{stage_id} is {found[0]['state']}: {found[0]['reason']}\n{self.logs()}")
            if time.monotonic() > deadline:
                raise LabError(f"{stage_id} did not become {' or '.join(states)} in {within_s:g} s\n{self.logs()}")

    def wait(self, ready: Callable[[], Any], what: str, within_s: float = START_S) -> None:
        """Wait until `ready()`. Raises LabError when a process of the node ends or the time is over."""
        deadline = time.monotonic() + within_s
        while not ready():
            for process in (self.noded, self.warm):
                if process is not None and process.poll() is not None:
                    raise LabError(f"a process of {self.name} ended\n{self.logs()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: waited in vain for {what}\n{self.logs()}")
            time.sleep(0.02)

    def logs(self) -> str:
        """The ends of all logs in the node's home, for a message about a failure."""
        paths = sorted({*self.home.rglob("log"), *self.home.rglob("*.log")})
        return "\n".join(
            f"--- {path}\n"
            + "\n".join(line[:300] for line in path.read_text(errors="replace").splitlines()[-LOG_LINES:])
            for path in paths
        )
