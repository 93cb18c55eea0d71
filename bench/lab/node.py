"""One Hydrant node in a host of the lab: its home, its noded and warm runtime, and a client for its noded."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.lab.network import Network
from bench.lab.paced import PacedNetwork
from bench.lab.watched_node import WatchedNode
from engine.node_config import NodeConfig, load_config

ROOT = Path(__file__).resolve().parents[2]
CONTROL_PYTHON = Path(sys.executable)
ENGINE_PYTHON = ROOT / ".venv-engine/bin/python"
AnyNetwork = Network | PacedNetwork


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


class LabNode(WatchedNode):
    """See the module. `environ` is what its processes run with; a node worker for it needs REDIS_URL besides."""

    def __init__(self, network: AnyNetwork, settings: NodeSettings) -> None:
        super().__init__(network.home(settings.name), settings.name)
        self.settings = settings
        self.address = network.addresses[settings.name]
        config = self.home / "node.toml"
        config.write_text(settings.toml(self.address, network.payload_mbit / 1000))
        # Bytecode is kept: importing SGLang without it takes twice as long.
        self.environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {
            "HYDRANT_HOME": str(self.home),
            "HYDRANT_NODE": self.name,
            "HYDRANT_NODE_CONFIG": str(config),
        }
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
            self.wait(self.warm_ready, "the warm runtime")

    def _start(self, python: Path, module: str) -> subprocess.Popen[bytes]:
        log = self.home / f"{module}.log"
        return self._network.start(self.name, [python, "-m", module], env=self.environ, cwd=ROOT, log=log)
