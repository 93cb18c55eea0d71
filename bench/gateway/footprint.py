"""A gateway that has just been started: how long that took, what memory it has, what it has imported."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.gateway import usage
from bench.gateway.client import Connection, request_bytes
from bench.gateway.hydrant import Hydrant
from bench.gateway.servers import Servers
from bench.gateway.variant import Variant

FORBIDDEN = ("litellm", "sqlalchemy", "celery")
"""Top-level packages. Without sqlalchemy there is no ORM either."""
START_S = 30.0
_IMPORTED = re.compile(r"^import time:\s+\d+ \|\s+\d+ \|\s*([\w.]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Seconds from exec to the first 200 of `/ready`, of each start: of the gateway, and of the Procfile's whole
    command, which reads the secrets first; bytes when ready; which of FORBIDDEN were imported."""

    start_s: list[float]
    with_secrets_s: list[float]
    resident_bytes: list[int]
    modules: int
    forbidden: list[str]

    @property
    def start(self) -> float:
        """Median seconds to ready."""
        return median(self.start_s)

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


async def measure(servers: Servers, hydrant: Hydrant, starts: int) -> Footprint:
    """Starts and ends gateways. Raises LoadError."""
    plain, whole, resident = [], [], []
    for _ in range(starts):
        began = time.perf_counter()
        process = hydrant.start_gateway(log="start")
        await servers.until_up("start", process, hydrant.ready_url, START_S)
        plain.append(time.perf_counter() - began)
        resident.append(usage.resident_bytes(process.pid))
        await servers.end(process)
        began = time.perf_counter()
        process = hydrant.start_as_procfile()
        await servers.until_up("start", process, hydrant.ready_url, START_S)
        whole.append(time.perf_counter() - began)
        await servers.end(process)
    modules = await _imports(servers, hydrant)
    forbidden = sorted({name.split(".")[0] for name in modules} & set(FORBIDDEN))
    return Footprint(plain, whole, resident, len(modules), forbidden)


async def _imports(servers: Servers, hydrant: Hydrant) -> set[str]:
    """Modules that a gateway has imported when it has answered a plain request and a stream."""
    process = hydrant.start_gateway("-X", "importtime", log="imports")
    await servers.until_up("imports", process, hydrant.ready_url, START_S)
    variant: Variant = hydrant.variant(process.pid)
    client = await Connection.to(variant)
    for stream in (False, True):
        await client.ask(request_bytes(variant, stream=stream))
    client.close()
    await servers.end(process)
    return imported((servers.home / "imports.log").read_text(errors="replace"))


def imported(log: str) -> set[str]:
    """Names in what `python -X importtime` writes. Raises ValueError where it has written nothing."""
    found = set(_IMPORTED.findall(log))
    if not found:
        raise ValueError("python -X importtime has written nothing")
    return found
