"""What the benchmark asks of the machine: a core for the server under test and another for everything else, ports,
open files."""

from __future__ import annotations

import os
import resource
import socket
from dataclasses import dataclass

FILES_WANTED = 16_384
"""5,000 streams are twice as many open files in a gateway, and as many in the load generator."""


@dataclass(frozen=True, slots=True)
class Cores:
    """`server` runs what is measured, one at a time; `load` everything else. The same where there is only one."""

    server: int
    load: int

    @property
    def apart(self) -> bool:
        """Whether the two do not disturb each other."""
        return self.server != self.load


def take_cores() -> Cores:
    """Two of the cores that this process may use, the last ones; it and its children go to `load` from now on."""
    cores = sorted(os.sched_getaffinity(0))
    chosen = Cores(server=cores[-1], load=cores[-2] if len(cores) > 1 else cores[-1])
    os.sched_setaffinity(0, {chosen.load})
    return chosen


def raise_file_limit(wanted: int = FILES_WANTED) -> int:
    """Lets this process and its children open up to `wanted` files; how many they may open at last."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < possible:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    return possible


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
