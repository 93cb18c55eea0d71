"""A gateway with one ready model on one fake worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, RunningGateway, World, route_entry
from support.redis_server import RedisServer


@pytest.fixture(autouse=True)
def _quick_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats follow each other closely: tests wait for them to know what a gateway has read."""
    monkeypatch.setattr("gateway.waiting.demand.PULSE_SECONDS", 0.05)


@pytest_asyncio.fixture
async def world(redis_server: RedisServer) -> AsyncIterator[World]:
    """A published read model without any route."""
    world = World(redis_server.url)
    await world.publish()
    yield world
    await world.redis.aclose()


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[FakeWorker]:
    """A running worker."""
    worker = await FakeWorker().start()
    yield worker
    await worker.stop()


@pytest_asyncio.fixture
async def second() -> AsyncIterator[FakeWorker]:
    """Another worker."""
    worker = await FakeWorker().start()
    yield worker
    await worker.stop()


@pytest_asyncio.fixture
async def cold_gateway(world: World, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A gateway whose model is not running."""
    gateway = await RunningGateway(redis_server.url, tmp_path).start()
    yield gateway
    await gateway.stop()


@pytest_asyncio.fixture
async def gateway(cold_gateway: RunningGateway, world: World, worker: FakeWorker) -> RunningGateway:
    """A gateway whose model `small` runs on `worker`."""
    await world.route("small", route_entry(worker.url))
    await world.until_read()
    return cold_gateway


@pytest_asyncio.fixture
async def client(cold_gateway: RunningGateway) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client with the first tenant's key."""
    async with aiohttp.ClientSession(cold_gateway.url, headers={"authorization": f"Bearer {KEY}"}) as session:
        yield session


@pytest.fixture
def question() -> dict[str, object]:
    """A plain chat request for three tokens."""
    return {"model": "small", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 3}
