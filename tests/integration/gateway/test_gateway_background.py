"""What runs behind the requests: it survives what it cannot read, and says so when it cannot go on."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.exceptions import RedisError
from support.fake_worker import FakeWorker
from support.gateway_process import RunningGateway, World, environment, route_entry, until

ROOT = Path(__file__).parents[3]
CHAT = "/v1/chat/completions"


async def ready(client: aiohttp.ClientSession) -> int:
    async with client.get("/ready") as answer:
        return answer.status


@pytest.mark.parametrize(
    "document",
    ['[{"group_id": "g", "url": null, "api_key": "k", "state": "pipeline", "prefer": 1}]', "[5]", "5", "null", "["],
)
async def test_routes_that_cannot_be_read_are_no_routes_and_nothing_more(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any],
    document: str,
) -> None:  # fmt: skip
    await world.redis.hset("hyd:routes", "other", document)
    await world.redis.hset("hyd:coldstart", "other", document)
    await world.redis.set("hyd:snapshot", document)
    await world.redis.publish("hyd:snapshot:changed", "2")
    await world.route("small", route_entry(worker.url, "grp_2"))
    await world.until_read()
    assert await ready(client) == 200
    async with client.post(CHAT, json=question) as answer:
        assert answer.status == 200
    (event,) = await world.until_events(1)
    assert event["group_id"] == "grp_2"


async def test_an_activity_entry_that_cannot_be_read_goes(world: World, redis_server: Any, tmp_path: Any) -> None:
    await world.redis.sadd("hyd:activity:models", "small")
    await world.redis.hset("hyd:activity:small", mapping={"gw_old": "no JSON", "gw_older": "{}"})
    gateway = await RunningGateway(redis_server.url, tmp_path).start()

    async def tidied() -> bool:
        return await world.redis.hlen("hyd:activity:small") == 0

    await until(tidied)
    await gateway.stop()


async def test_a_background_task_that_dies_takes_the_gateway_out_of_service(
    gateway: RunningGateway, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await ready(client) == 200
    stopped = asyncio.Event()
    monkeypatch.setattr(gateway.app, "_on_broken", stopped.set)

    async def defect() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(gateway.app._metering, "checkpoint", defect)
    await asyncio.wait_for(stopped.wait(), 10)
    assert await ready(client) == 503


async def test_a_gateway_process_whose_background_task_died_ends_for_its_supervisor(
    world: World, redis_server: Any, tmp_path: Any
) -> None:
    defect = (
        "import sys\nfrom gateway.accounting.metering import Metering\n"
        "async def defect(self):\n    raise RuntimeError('a defect')\n"
        "Metering.checkpoint = defect\n"
        "from gateway.__main__ import main\nsys.exit(main())\n"
    )
    environ = environment(redis_server, tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", defect, cwd=ROOT, env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert b"a background task has died" in errors
    assert b"RuntimeError: a defect" in errors


async def test_a_stop_is_not_held_up_by_a_task_whose_cancellation_was_swallowed(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.app.CANCEL_SECONDS", 0.01)
    swallowed = []

    async def deaf_once() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed:
                    raise
                swallowed.append(1)

    gateway.app._tasks.append(asyncio.create_task(deaf_once()))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(gateway.stop())
    await until(stopping.done)
    assert swallowed
    assert all(task.done() for task in gateway.app._tasks)


async def test_activity_that_redis_did_not_take_is_told_later(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, redis_server: Any, worker: FakeWorker,
    question: dict[str, Any],
) -> None:  # fmt: skip
    async with client.post(CHAT, json=question) as answer:
        assert answer.status == 200

    async def told() -> bool:
        entries = [json.loads(entry) for entry in await world.redis.hvals("hyd:activity:small")]
        return bool(entries) and entries[0]["running"] == 0

    await until(told)
    redis_server.kill()
    gateway.app._demand.touched("small")
    with pytest.raises(RedisError):
        await gateway.app._demand._write_activity()
    redis_server.start()
    await world.redis.connection_pool.disconnect()  # of the server that was killed
    await until(told)
