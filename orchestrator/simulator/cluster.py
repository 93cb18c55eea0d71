"""The simulated cluster: servers of equal make, as a file describes them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.simulator.startup import StartTimes

GB = 10**9


@dataclass(frozen=True, slots=True)
class Server:
    """One make of server: `count` of them, each with `devices` accelerators of `memory_bytes` and a link of `link_bps`.

    cache_bytes  host memory for weights.
    """

    kind: str
    count: int
    devices: int
    memory_bytes: int
    link_bps: int
    cache_bytes: int
    times: StartTimes


@dataclass(frozen=True, slots=True)
class Cluster:
    """All makes; the order gives servers their names."""

    servers: tuple[Server, ...]

    def hosts(self) -> Iterator[tuple[str, Server]]:
        """Each server with its name."""
        for server in self.servers:
            for i in range(server.count):
                yield f"{server.kind}-{i:04d}", server

    @property
    def times(self) -> Mapping[str, StartTimes]:
        """Start-up constants by kind of device."""
        return {server.kind: server.times for server in self.servers}
