"""While Redis is away: a little for each key, never more, and every bit of it billed when Redis is back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support.fake_worker import PROMPT_TOKENS, FakeWorker
from support.gateway_process import KEY, OTHER_KEY, PRICE, RunningGateway, World, route_entry, until
from support.redis_server import RedisServer

from gateway.accounting.allowance import AllowanceLimits
from gateway.body.parsing import TEMPLATE_TOKENS
from gateway.settings import SettingsError, load_settings

CHAT = "/v1/chat/completions"
COST = PROMPT_TOKENS * PRICE["input_nusd"] + 3 * PRICE["output_nusd"] + PRICE["request_nusd"]
REQUESTS = 5
QUESTION = {"model": "small", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 3}
MOST = (
    (len(json.dumps(QUESTION)) + TEMPLATE_TOKENS) * PRICE["input_nusd"]
    + 3 * PRICE["output_nusd"]
    + PRICE["request_nusd"]
)


@pytest_asyncio.fixture
async def generous(
    world: World, redis_server: RedisServer, worker: FakeWorker, tmp_path: Path
) -> AsyncIterator[RunningGateway]:
    """A gateway that lets each key ask five times without Redis, for what four such requests may cost at most."""
    await world.route("small", route_entry(worker.url, capacity=100))
    gateway = await RunningGateway(redis_server.url, tmp_path, allowance=AllowanceLimits(REQUESTS, 4 * MOST)).start()
    await world.until_read()
    yield gateway
    await gateway.stop()


async def ask(gateway: RunningGateway, key: str = KEY, **more: Any) -> tuple[int, str | None]:
    """(status, error code) of one request."""
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as client,
        client.post(gateway.url + CHAT, json=QUESTION | more) as answer,
    ):
        text = await answer.text()
        return answer.status, json.loads(text)["error"]["code"] if answer.status != 200 else None


async def test_racing_clients_get_the_allowance_and_every_bill_is_complete(
    generous: RunningGateway, world: World, redis_server: RedisServer, worker: FakeWorker
) -> None:
    redis_server.kill()
    await until(lambda: not generous.app._read_model.connected)
    worker.gate = asyncio.Event()
    racing = [asyncio.create_task(ask(generous)) for _ in range(20)]
    racing += [asyncio.create_task(ask(generous, OTHER_KEY)) for _ in range(20)]
    # By the amount, which is held in full while they run.
    await until(lambda: sum(task.done() for task in racing) == 40 - 2 * 4)
    await until(lambda: worker.active == 2 * 4)
    worker.gate.set()
    answers = await asyncio.gather(*racing)
    for mine in (answers[:20], answers[20:]):
        assert sorted(mine, key=str) == [(200, None)] * 4 + [(503, "admission_unavailable")] * 16
    # They cost less than they held; now the number of requests is the bound.
    assert [(await ask(generous))[0] for _ in range(3)] == [200, 503, 503]
    async with aiohttp.ClientSession() as client, client.get(generous.url + "/ready") as ready:
        assert ready.status == 200

    redis_server.start()
    events = await world.until_events(9)
    assert len({event["attempt_id"] for event in events}) == 9
    assert [(event["outcome"], event["completion_tokens"], event["reserved_nusd"]) for event in events] == [
        ("ok", 3, COST)
    ] * 9
    # Until the ledger has charged them, their costs are held, as any other's.
    assert await world.redis.hlen("hyd:attempts") == 9
    assert await world.reserved() + await world.reserved("ten_2") == 9 * COST
    # Redis rules again, and it knows no balance yet.
    await until(lambda: _answers(generous, (503, "balance_unknown")))
    await world.publish()
    await world.route("small", route_entry(worker.url, capacity=100))
    await until(lambda: _answers(generous, (200, None)))


async def test_it_is_new_when_redis_has_taken_the_bills_and_not_before(
    generous: RunningGateway, world: World, redis_server: RedisServer, worker: FakeWorker
) -> None:
    for outage in range(2):
        redis_server.kill()
        await until(lambda: not generous.app._read_model.connected)
        statuses = [(await ask(generous))[0] for _ in range(REQUESTS + 2)]
        assert statuses == [200] * REQUESTS + [503] * 2, outage
        redis_server.start()
        await world.until_events(REQUESTS)
        await world.publish()
        await world.route("small", route_entry(worker.url, capacity=100))
        await world.until_read()
    # The first outage's server is gone with its stream: its events have come again after those of the second.
    await until(lambda: _has(world, 2 * REQUESTS))
    assert len({event["attempt_id"] for event in await world.events()}) == 2 * REQUESTS


async def test_a_worker_that_fails_without_redis_is_replaced_within_the_same_allowance(
    generous: RunningGateway, world: World, redis_server: RedisServer, worker: FakeWorker, second: FakeWorker
) -> None:
    await world.route("small", route_entry(worker.url, prefer=2), route_entry(second.url, "grp_2"))
    await world.until_read()
    worker.die_after = -1
    redis_server.kill()
    await until(lambda: not generous.app._read_model.connected)
    assert await ask(generous) == (200, None)
    redis_server.start()
    events = await world.until_events(2)
    assert sorted((event["outcome"], event["reserved_nusd"]) for event in events) == [
        ("ok", COST),
        ("upstream_error", 0),
    ]


async def test_what_a_worker_refuses_gives_its_place_in_the_allowance_back(
    generous: RunningGateway, redis_server: RedisServer, worker: FakeWorker
) -> None:
    redis_server.kill()
    await until(lambda: not generous.app._read_model.connected)
    worker.refuse = (400, {"object": "error", "message": "no", "type": "BadRequest", "param": None, "code": 400})
    assert [(await ask(generous))[0] for _ in range(3 * REQUESTS)] == [400] * 3 * REQUESTS


def test_the_allowance_is_off_unless_it_is_asked_for() -> None:
    good = {"HYDRANT_KEY_PEPPER": "p", "HYDRANT_HOSTED_SECRET": "s", "HYDRANT_HOME": "/h"}
    assert load_settings(good).allowance is None
    asked = good | {"HYDRANT_ADMISSION_WITHOUT_REDIS": "allowance"}
    assert load_settings(asked).allowance == AllowanceLimits(20, 100_000_000)
    set_ = asked | {"HYDRANT_ALLOWANCE_REQUESTS": "3", "HYDRANT_ALLOWANCE_USD": "0.000000001"}
    assert load_settings(set_).allowance == AllowanceLimits(3, 1)
    for wrong in ({"HYDRANT_ADMISSION_WITHOUT_REDIS": "all"}, {"HYDRANT_ALLOWANCE_USD": "-1"},
                  {"HYDRANT_ALLOWANCE_USD": "much"}, {"HYDRANT_ALLOWANCE_REQUESTS": "0"}):  # fmt: skip
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            load_settings(asked | wrong)


async def _answers(gateway: RunningGateway, wanted: tuple[int, str | None]) -> bool:
    return await ask(gateway) == wanted


async def _has(world: World, count: int) -> bool:
    return len(await world.events()) >= count
