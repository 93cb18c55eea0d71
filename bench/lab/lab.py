"""A network with Hydrant's nodes, a store that serves a directory, and a client that asks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.lab import store
from bench.lab.network import CLIENT, STORE, Network
from bench.lab.node import CONTROL_PYTHON, ROOT, AnyNetwork, LabNode, NodeSettings
from bench.lab.tools import LabError


class Lab:
    """See the module. `files_dir` is what the store serves at `store_url`; `node_mbit` a node's link in Mbit/s.

    A context manager; it is made when every noded answers and every warm runtime is ready. Raises LabUnavailable,
    LabBusy, and LabError when something does not start.
    """

    def __init__(
        self,
        nodes: Sequence[NodeSettings],
        files_dir: Path,
        node_mbit: float = 400,
        make: Callable[[Sequence[str], float], AnyNetwork] = Network,
    ) -> None:
        self.network = make([node.name for node in nodes], node_mbit)
        try:
            self.addresses = self.network.addresses
            self.store_url = f"http://{self.addresses[STORE]}:{self.network.port(STORE, store.PORT)}"
            self._start_store(files_dir)
            self.nodes = {settings.name: LabNode(self.network, settings) for settings in nodes}
            for node in self.nodes.values():
                node.start()
            for node in self.nodes.values():
                node.wait_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_ask(
        self, url: str, body: Mapping[str, Any], key: str, deadline_s: float = 300
    ) -> subprocess.Popen[bytes]:
        """Ask from the client's host (see bench.lab.ask); the answer is for `finish_ask`."""
        options = ["--body", json.dumps(dict(body)), "--key", key, "--deadline-s", str(deadline_s)]
        argv = [str(CONTROL_PYTHON), str(ROOT / "bench/lab/ask.py"), url, *options]
        return self.network.start(CLIENT, argv, cwd=ROOT, log=self.network.home(CLIENT) / "ask.log", pipe=True)

    def first_token(self, asking: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Wait for the first token of what `start_ask` started: as bench.lab.ask prints it then. Raises LabError."""
        return self._next_line(asking)

    def finish_ask(self, asking: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Wait for the end of what `start_ask` started: as bench.lab.ask prints it last. Raises LabError."""
        while (seen := self._next_line(asking))["ended_s"] is None:
            pass
        asking.wait()
        return seen

    def _next_line(self, asking: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert asking.stdout is not None
        line = asking.stdout.readline()
        if not line:
            log = self.network.home(CLIENT) / "ask.log"
            raise LabError(f"the client ended with status {asking.wait()}: {_last_line(log)}")
        seen: dict[str, Any] = json.loads(line)
        if seen["error"]:
            raise LabError(f"the client: {seen['error']}")
        return seen

    def ask(self, url: str, body: Mapping[str, Any], key: str, deadline_s: float = 300) -> dict[str, Any]:
        """One streamed chat completion, asked from the client's host: texts and times as in bench.lab.ask."""
        return self.finish_ask(self.start_ask(url, body, key, deadline_s))

    def close(self) -> None:
        """End and remove everything."""
        self.network.close()

    def _start_store(self, files_dir: Path) -> None:
        port = self.network.port(STORE, store.PORT)
        options = [str(files_dir.resolve()), "--address", self.addresses[STORE], "--port", str(port)]
        argv = [str(CONTROL_PYTHON), "-m", "bench.lab.store", *options]
        log = self.network.home(STORE) / "store.log"
        started = self.network.start(STORE, argv, cwd=ROOT, log=log, pipe=True)
        assert started.stdout is not None
        if started.stdout.readline().strip() != store.READY.encode():
            raise LabError(f"the store did not start: {_last_line(log)}")


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
