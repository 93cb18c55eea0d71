"""A node as tests run it: real noded and, if wanted, a real warm runtime, in a directory of their own on 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.leaks import assert_none_in_logs

from bench.lab.watched_node import WatchedNode
from engine.node_config import NodeConfig, load_config

ROOT = Path(__file__).resolve().parents[2]
CONTROL_PYTHON = ROOT / ".venv/bin/python"
ENGINE_PYTHON = ROOT / ".venv-engine/bin/python"


class EngineNode(WatchedNode):
    """One node named `name`, with its processes and client."""

    def __init__(self, home: Path, name: str, ports: tuple[int, int], core: int, **node_settings: Any) -> None:
        super().__init__(home, name)
        self.ports = ports
        settings = {"name": name, "address": "127.0.0.1", "ports": list(ports), "store_gb": 1.5, **node_settings}
        lines = [f"{key} = {_toml(value)}" for key, value in settings.items()]
        device = f'[[device]]\nkind = "cpu"\ncores = [{core}]\nmemory_gb = 6.0\n'
        self.config_path = home / f"{name}.toml"
        self.config_path.write_text("[node]\n" + "\n".join(lines) + "\n\n" + device)
        # Bytecode is kept: importing SGLang without it takes twice as long.
        self.environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {
            "HYDRANT_HOME": str(home),
            "HYDRANT_NODE": name,
            "HYDRANT_NODE_CONFIG": str(self.config_path),
        }

    @property
    def config(self) -> NodeConfig:
        """The configuration as noded reads it."""
        return load_config(self.environ)

    def start_noded(self) -> None:
        """Start noded and wait for its answer."""
        self.noded = self._start(CONTROL_PYTHON, "engine.noded")
        self.wait(self.answers, "noded to answer")

    def start_warm(self, wait: bool = True) -> None:
        """Start the warm runtime and, unless told otherwise, wait until noded sees it."""
        self.warm = self._start(ENGINE_PYTHON, "engine.warm")
        if wait:
            self.wait(self.warm_ready, "the warm runtime")

    def kill_noded(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End noded and wait for its end."""
        if self.noded is not None:
            self.noded.send_signal(number)
            self.noded.wait(20)
            self.noded = None

    def kill_warm(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the warm runtime and wait for its end."""
        if self.warm is not None:
            self.warm.send_signal(number)
            self.warm.wait(20)
            self.warm = None

    def sweep(self) -> subprocess.CompletedProcess[str]:
        """Remove everything of the node, as an orderly shutdown does."""
        return subprocess.run(
            [CONTROL_PYTHON, "-m", "engine.noded", "--sweep"],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def apply(self, *effects: dict[str, Any]) -> None:
        """Hand effects over."""
        for effect in effects:
            self.client.apply(effect)

    def wait_probed(self, stage_id: str) -> dict[str, Any]:
        """Wait until the stage is ready and what came of its probe is told."""
        self.wait(lambda: self.wait_state(stage_id, "ready")["probe"] is not None, "its probe's answer")
        return self.stage(stage_id)

    def _start(self, python: Path, module: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{self.name}.{module}.log").open("ab") as log:
            return subprocess.Popen(
                [python, "-m", module],
                cwd=ROOT,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def close(self) -> None:
        """End and remove everything."""
        self.kill_noded(signal.SIGTERM)
        self.kill_warm(signal.SIGTERM)
        swept = self.sweep()
        assert swept.returncode == 0, swept.stderr


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a path short enough for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="hyt-"))
    try:
        yield path
        assert_none_in_logs(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str | Path) else str(value)
