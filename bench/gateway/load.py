"""Loads that are put on a server: streams without end, one client after its first token, requests at a fixed rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from bench.gateway.client import Connection, LoadError, request_bytes
from bench.gateway.variant import Variant

STREAM_TOKENS = 256
SETTLE_S = 0.5
"""Before anything is counted, so that every connection is at work."""


async def streamed_per_second(variant: Variant, connections: int, seconds: float) -> tuple[float, int]:
    """Events a second over so many streams, each followed by another, and how many came. Raises LoadError."""
    clients = [await Connection.to(variant) for _ in range(connections)]
    request = request_bytes(variant, tokens=STREAM_TOKENS, stream=True)
    over = False

    async def stream(client: Connection) -> None:
        while not over:
            answer = await client.ask(request)
            if answer.events < STREAM_TOKENS:
                raise LoadError(f"{variant.name}: a stream of {STREAM_TOKENS} tokens had {answer.events} events")

    tasks = [asyncio.ensure_future(stream(client)) for client in clients]
    try:
        await asyncio.sleep(SETTLE_S)
        before, began = sum(client.events for client in clients), time.perf_counter()
        await asyncio.sleep(seconds)
        count, took = sum(client.events for client in clients) - before, time.perf_counter() - began
        over = True
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        for client in clients:
            client.close()
    return count / took, count


async def first_tokens(variant: Variant, count: int) -> list[float]:
    """Seconds to the first event of streams of one client, one after the other. Raises LoadError."""
    client = await Connection.to(variant)
    request = request_bytes(variant, tokens=4, stream=True)
    try:
        return [(await client.ask(request)).first_s for _ in range(count)]
    finally:
        client.close()


async def latencies(variant: Variant, per_second: float, seconds: float) -> list[float]:
    """Seconds that plain answers took which were asked for at a fixed rate, however long the ones before took.

    Counted from the moment at which each was due. Raises LoadError.
    """
    request = request_bytes(variant)
    idle: list[Connection] = []
    everyone: list[Connection] = []

    async def ask(due: float) -> float:
        if idle:
            client = idle.pop()
        else:
            client = await Connection.to(variant)
            everyone.append(client)
        await client.ask(request)
        idle.append(client)
        return time.perf_counter() - due

    tasks = []
    began = time.perf_counter()
    try:
        for number in range(int(per_second * seconds)):
            due = began + number / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.ensure_future(ask(due)))
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        for client in everyone:
            client.close()


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which so many percent of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
