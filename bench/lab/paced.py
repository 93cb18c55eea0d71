"""The lab's stand-in where there can be no namespaces: every host is 127.0.0.1, and only fetches are held to the link's
rate, by whoever fetches. What else would cross a link is not slowed, and bytes on links cannot be counted.
"""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.lab.network import LinkBytes, addresses
from bench.lab.processes import Processes
from bench.lab.tools import LabError
from engine.node_config import parse_config
from engine.noded import sweep


class PacedNetwork:
    """As `bench.lab.network.Network`, of which this is the part that needs no rights."""

    shaped = False

    def __init__(self, nodes: Sequence[str], node_mbit: float = 400) -> None:
        self.addresses = dict.fromkeys(addresses(nodes), "127.0.0.1")
        self.node_mbit = self.payload_mbit = node_mbit
        # Short, for unix sockets lie in it.
        self._directory = Path(tempfile.mkdtemp(prefix="hydpaced-"))
        self._processes = Processes()
        self._ports: dict[tuple[str, int], int] = {}
        self._open = True
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(
        self,
        host: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        pipe: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a process, as `Processes.start`; it is killed when this one dies, and ended by `close`."""
        self._known(host)
        return self._processes.start(argv, env=env, cwd=cwd, log=log, pipe=pipe)

    def port(self, host: str, usual: int) -> int:
        """Where a host's process may listen: a port that is free now, the same for the same question."""
        self._known(host)
        if (host, usual) not in self._ports:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._ports[host, usual] = free.getsockname()[1]
        return self._ports[host, usual]

    def counters(self) -> dict[str, LinkBytes]:
        """Nothing: there are no links."""
        return dict.fromkeys(self.addresses, LinkBytes(0, 0))

    def home(self, host: str) -> Path:
        """The host's directory, made if need be; removed with the network."""
        self._known(host)
        path = self._directory / host
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def close(self) -> None:
        """End every process and remove everything. Does nothing the second time. Raises LabError."""
        if not self._open:
            return
        self._open = False
        atexit.unregister(self.close)
        self._processes.end()
        self._processes.kill()
        for home in self._directory.iterdir():
            left = sweep.sweep(parse_config({"node": {"name": home.name}}, {"HYDRANT_HOME": str(home)}))
            if left:
                raise LabError(f"cannot remove all of {home.name}: {left[0]}")
        self._processes.reap()
        shutil.rmtree(self._directory)

    def _known(self, host: str) -> None:
        if host not in self.addresses:
            raise ValueError(f"there is no host {host!r}; there are {', '.join(self.addresses)}")
