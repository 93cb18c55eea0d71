"""Many at once on one gateway process: requests held for cold models, and open streams."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.gateway import load, usage
from bench.gateway.client import Connection, LoadError, request_bytes
from bench.gateway.upstream import PACE_S, PACED
from bench.gateway.variant import Variant

PROBES_PER_S = 200.0
CONNECTING = 200
"""So many connections are made and asked on at a time."""
UP_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Held:
    """`p99_ms`: of another, warm model's plain answers, while nobody is held and while `count` are."""

    count: int
    resident_bytes: int
    unloaded_p99_ms: float
    loaded_p99_ms: float
    unloaded_median_ms: float
    loaded_median_ms: float

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Open:
    """`count` streams open at once; `errors`: those that did not begin or did not end well."""

    count: int
    errors: int
    resident_before_bytes: int
    resident_bytes: int
    first_error: str | None

    @property
    def each_bytes(self) -> float:
        """What one of them takes."""
        return (self.resident_bytes - self.resident_before_bytes) / self.count

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self) | {"each_bytes": self.each_bytes}


async def hold(variant: Variant, cold_models: Sequence[str], count: int, seconds: float) -> Held:
    """Asks `count` times for models that nobody starts, every second time for a stream. Raises LoadError."""
    assert variant.pid is not None
    unloaded = await load.latencies(variant, PROBES_PER_S, seconds)
    clients: list[Connection] = []
    tasks: list[asyncio.Task[Any]] = []
    try:
        for number in range(count):
            client = await Connection.to(variant)
            clients.append(client)
            model = cold_models[number % len(cold_models)]
            tasks.append(asyncio.create_task(client.ask(request_bytes(variant, model=model, stream=number % 2 == 0))))
            if number % CONNECTING == 0:
                await asyncio.sleep(0.05)
        await _until_held(variant, count, tasks)
        loaded = await load.latencies(variant, PROBES_PER_S, seconds)
        resident = usage.resident_bytes(variant.pid)
        await _until_held(variant, count, tasks)
    finally:
        for task in tasks:
            task.cancel()
        for client in clients:
            client.close()
        await asyncio.gather(*tasks, return_exceptions=True)
    await _until_held(variant, 0, [])
    unloaded += await load.latencies(variant, PROBES_PER_S, seconds)
    return Held(
        count,
        resident,
        unloaded_p99_ms=1000 * load.percentile(unloaded, 99),
        loaded_p99_ms=1000 * load.percentile(loaded, 99),
        unloaded_median_ms=1000 * load.percentile(unloaded, 50),
        loaded_median_ms=1000 * load.percentile(loaded, 50),
    )


async def _until_held(variant: Variant, count: int, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Waits until the gateway says that it holds so many. Raises LoadError when one is answered, or it never does."""
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        for task in tasks:
            if task.done():
                task.result()
                raise LoadError("a request for a cold model was answered")
        if f"hydrant_held_requests {float(count)}" in await asyncio.to_thread(_metrics, variant):
            return
        if time.monotonic() > deadline:
            raise LoadError(f"the gateway did not hold {count} requests within {UP_WITHIN_S:.0f} s")
        await asyncio.sleep(0.2)


def _metrics(variant: Variant) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{variant.port}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
        return text


async def open_streams(variant: Variant, count: int, tokens: int) -> Open:
    """Opens `count` streams that give a token every `PACE_S` seconds, and has all of them end."""
    assert variant.pid is not None
    await load.first_tokens(variant, 20)  # so that what a first request allocates is not counted
    before = usage.resident_bytes(variant.pid)
    request = request_bytes(variant, model=PACED, tokens=tokens, stream=True)
    gate = asyncio.Semaphore(CONNECTING)
    clients: list[Connection] = []
    asked: list[asyncio.Task[Any]] = []

    async def begin() -> None:
        async with gate:
            client = await Connection.to(variant)
            clients.append(client)
            task = asyncio.create_task(client.ask(request))
            asked.append(task)
            started = asyncio.create_task(client.started.wait())
            await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
            started.cancel()

    began = await asyncio.gather(*(begin() for _ in range(count)), return_exceptions=True)
    early = sum(task.done() for task in asked)
    await asyncio.sleep(PACE_S)
    resident = usage.resident_bytes(variant.pid)
    ended = await asyncio.gather(*asked, return_exceptions=True)
    for client in clients:
        client.close()
    failures = [one for one in (*began, *ended) if isinstance(one, BaseException)]
    short = [one for one in ended if not isinstance(one, BaseException) and one.events < tokens]
    if early and not failures:
        raise LoadError(f"{early} streams were over before all had begun: give them more tokens")
    return Open(count, len(failures) + len(short), before, resident, str(failures[0]) if failures else None)
