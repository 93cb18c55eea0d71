"""One Hydrant node in a host of the lab: its home, its noded and warm runtime, and a client for its noded."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.lab.network import Network
from bench.lab.paced import PacedNetwork
from bench.lab.tools import LabError
from engine.client import NodedClient, NodedUnavailable
from engine.node_config import NodeConfig, load_config

ROOT = Path(__file__).resolve().parents[2]
CONTROL_PYTHON = Path(sys.executable)
ENGINE_PYTHON = ROOT / ".venv-engine/bin/python"
AnyNetwork = Network | PacedNetwork
START_S = 240.0
LOG_LINES = 25


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """A node with one CPU device. Sizes in GB (1e9 bytes).

    `core` is the one its engines are pinned to. `link_gbps` (Gbit/s) is what noded is told of its link; None: what the
    lab's links have for payload, 0: nothing, so that noded itself never holds a fetch back. `warm`: with a warm
    runtime.
    """

    name: str
    core: int
    memory_gb: float = 6.0
    store_gb: float = 1.5
    link_gbps: float | None = None
    ports: tuple[int, int] = (31000, 31099)
    warm: bool = True

    def toml(self, address: str, link_gbps: float) -> str:
        """noded's configuration for a node at `address` with a link of `link_gbps`."""
        told = link_gbps if self.link_gbps is None else self.link_gbps
        lines = [
            "[node]",
            f'name = "{self.name}"',
            f'address = "{address}"',
            f"ports = [{self.ports[0]}, {self.ports[1]}]",
            f"store_gb = {self.store_gb}",
            f'engine_python = "{ENGINE_PYTHON}"',
            *([f"link_gbps = {told}"] if told else []),
            "",
            "[[device]]",
            'kind = "cpu"',
            f"cores = [{self.core}]",
            f"memory_gb = {self.memory_gb}",
        ]
        return "\n".join(lines) + "\n"


class LabNode:
    """See the module. `environ` is what its processes run with; a node worker for it needs REDIS_URL besides."""

    def __init__(self, network: AnyNetwork, settings: NodeSettings) -> None:
        self.settings, self.name = settings, settings.name
        self.address = network.addresses[settings.name]
        self.home = network.home(settings.name)
        config = self.home / "node.toml"
        config.write_text(settings.toml(self.address, network.payload_mbit / 1000))
        # Bytecode is kept: importing SGLang without it takes twice as long.
        self.environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {
            "HYDRANT_HOME": str(self.home),
            "HYDRANT_NODE": self.name,
            "HYDRANT_NODE_CONFIG": str(config),
        }
        self.client = NodedClient.for_node(self.home, self.name)
        self.noded: subprocess.Popen[bytes] | None = None
        self.warm: subprocess.Popen[bytes] | None = None
        self._network = network

    @property
    def config(self) -> NodeConfig:
        """The configuration as noded reads it."""
        return load_config(self.environ)

    def start(self) -> None:
        """Start its processes; returns at once."""
        if self.settings.warm:
            self.warm = self._start(ENGINE_PYTHON, "engine.warm")
        self.noded = self._start(CONTROL_PYTHON, "engine.noded")

    def wait_ready(self) -> None:
        """Wait until noded answers and, if there is one, the warm runtime is ready. Raises LabError."""
        self.wait(self.answers, "noded to answer")
        if self.settings.warm:
            self.wait(lambda: self.client.report()["warm"]["ready"], "the warm runtime")

    def answers(self) -> bool:
        """Whether noded answers."""
        try:
            self.client.report()
        except NodedUnavailable:
            return False
        return True

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
        """The ends of all logs of the node, for a message about a failure."""
        paths = sorted({*self.home.rglob("log"), *self.home.rglob("*.log")})
        return "\n".join(
            f"--- {path}\n"
            + "\n".join(line[:300] for line in path.read_text(errors="replace").splitlines()[-LOG_LINES:])
            for path in paths
        )

    def _start(self, python: Path, module: str) -> subprocess.Popen[bytes]:
        log = self.home / f"{module}.log"
        return self._network.start(self.name, [python, "-m", module], env=self.environ, cwd=ROOT, log=log)
