"""Budgets by period: spent to the last affordable request, refused with a reason, unknown never unlimited."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from support.fake_worker import PROMPT_TOKENS, FakeWorker
from support.gateway_process import KEY, PEPPER, PRICE, RunningGateway, World, route_entry, tenant_entry, until
from support.redis_server import RedisServer

from gateway.accounting.admission import ends_at_ms
from gateway.body.parsing import TEMPLATE_TOKENS
from gateway.readmodel.snapshot import hash_key
from registry.budget_windows import bounds_ms, window_at
from registry.ops.money import usd

CHAT = "/v1/chat/completions"
CLIENTS = 64
COST = PROMPT_TOKENS * PRICE["input_nusd"] + 3 * PRICE["output_nusd"] + PRICE["request_nusd"]


async def ask(client: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[int, dict[str, Any], Any]:
    """(status, error object or empty, headers) of a plain request."""
    async with client.post(CHAT, json=body) as answer:
        return answer.status, (await answer.json()).get("error", {}), answer.headers


def reservation(body: dict[str, Any]) -> int:
    """The most that a body can cost, in nano-dollars."""
    prompt = len(json.dumps(body)) + TEMPLATE_TOKENS
    return prompt * PRICE["input_nusd"] + body["max_tokens"] * PRICE["output_nusd"] + PRICE["request_nusd"]


@pytest.mark.parametrize("scope", ["tenant", "key"])
async def test_racing_clients_spend_exactly_what_a_budget_covers(
    scope: str, gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker,
    question: dict[str, Any],
) -> None:  # fmt: skip
    most, spent = reservation(question), 12_345
    budgets = {"day": spent + 10 * most - 1, "month": 10**15, "total": 10**18}
    if scope == "tenant":
        world.tenants["ten_1"] = tenant_entry(budgets=budgets)
    else:
        world.keys[hash_key(KEY, PEPPER)]["budgets"] = budgets
    for period in budgets:
        await world.spend("ten_1" if scope == "tenant" else "key_1", period, spent)
    await world.route("small", route_entry(worker.url, capacity=100))
    await world.applied()
    worker.gate = asyncio.Event()
    racing = [asyncio.create_task(ask(client, question)) for _ in range(CLIENTS)]
    await until(lambda: sum(task.done() for task in racing) == CLIENTS - 9)
    assert await world.budget_reserved() == 3 * 9 * most
    worker.gate.set()
    answers = await asyncio.gather(*racing)
    assert [status for status, _, _ in answers].count(200) == 9
    refused = [(error, headers) for status, error, headers in answers if status == 429]
    assert len(refused) == CLIENTS - 9
    for error, headers in refused:
        assert error["code"] == error["type"] == "insufficient_quota"
        # 10 of them less a nano-dollar, of which 9 run.
        assert f"The {scope}'s budget for this day" in error["message"]
        assert f"has {usd(most - 1)} left while other requests of it run" in error["message"]
        assert f"this one may cost {usd(most)}" in error["message"]
        # What runs may cost less than it holds: soon another one may fit in.
        assert headers["retry-after"] == "1"
    events = await world.until_events(9)
    assert all(len(event["budgets"]) == 3 for event in events)
    # Until the ledger has written them, their costs stay reserved.
    assert await world.budget_reserved() == 3 * 9 * COST


async def test_a_spent_budget_says_until_when_and_an_sdk_does_not_ask_again(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    world.tenants["ten_1"] = tenant_entry(budgets={"month": 100_000_000})
    await world.spend("ten_1", "month", 99_999_999)
    await world.applied()
    status, error, headers = await ask(client, question)
    assert (status, error["code"]) == (429, "insufficient_quota")
    assert "budget for this month (UTC) ($0.10) has $0.000000001 left" in error["message"]
    assert f"this request may cost {usd(reservation(question))} (" in error["message"]
    assert re.search(r"starts anew at \d{4}-\d\d-01 00:00 UTC", error["message"])
    assert 0 < int(headers["retry-after"]) <= 31 * 86_400
    asked = 0

    async def count(_request: object) -> None:
        nonlocal asked
        asked += 1

    async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=2) as sdk:
        sdk._client.event_hooks["request"].append(count)
        with pytest.raises(openai.RateLimitError):
            await sdk.chat.completions.create(**question)
    assert asked == 1
    assert worker.requests == []


async def test_a_budget_that_is_overspent_has_nothing_left(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    world.tenants["ten_1"] = tenant_entry(budgets={"total": 100_000_000})
    await world.spend("ten_1", "total", 100_000_001)
    await world.applied()
    _, error, _ = await ask(client, question)
    assert "The tenant's budget in total ($0.10) has $0.00 left" in error["message"]


async def test_what_is_unknown_is_refused_and_nothing_is_kept_of_it(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    world.tenants["ten_1"] = tenant_entry(budgets={"day": 10**12}, parallel=5)
    world.keys[hash_key(KEY, PEPPER)]["budgets"] = {"total": 10**12}
    await world.spend("ten_1", "day")
    await world.applied()
    status, error, headers = await ask(client, question)
    assert (status, error["code"]) == (503, "budget_unknown")
    assert int(headers["retry-after"]) > 0
    assert "the key has spent" in error["message"]
    assert await world.redis.hgetall("hyd:budget:reserved") == await world.redis.hgetall("hyd:attempts") == {}
    assert await world.redis.exists("hyd:slots:tenant:ten_1") == 0
    await world.spend("key_1", "total")
    assert (await ask(client, question))[0] == 200


async def test_a_request_that_no_worker_took_gives_its_budget_back(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    world.tenants["ten_1"] = tenant_entry(budgets={"day": 10**12})
    world.hold["deadline_s"] = 1
    await world.spend("ten_1", "day")
    await world.route("small")
    await world.applied()
    assert (await ask(client, question))[0] == 504
    await until(lambda: _is_empty(world))


async def _is_empty(world: World) -> bool:
    return await world.redis.hgetall("hyd:budget:reserved") == {}


def test_redis_gateway_and_registry_agree_on_every_window(redis_server: RedisServer) -> None:
    source = Path("gateway/accounting/lua/admit.lua").read_text()
    function = re.search(r"^local function window_of.*?^end$", source, re.S | re.M)
    assert function is not None
    script = (
        "local now_ms\n" + function[0] + "\nlocal found = {}\nfor position, text in ipairs(ARGV) do\n"
        "now_ms = tonumber(text)\nfound[position] = window_of(KEYS[1])\nend\nreturn found"
    )
    edges = []
    for year in (1970, 1999, 2000, 2026, 2028, 2100, 2400):
        for month in range(1, 13):
            begin = int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000
            edges += [begin, begin + 1, begin + 86_400_000 * 27 + 86_399_999] + ([begin - 1] if begin else [])
    with redis_server.client() as client:
        for period in ("day", "month", "total"):
            windows = client.eval(script, 1, period, *edges)
            assert windows == [window_at(period, at_ms) for at_ms in edges]
            for at_ms, window in zip(edges, windows, strict=True):
                begins, ends = bounds_ms(period, window)
                assert begins <= at_ms
                assert ends is None or at_ms < ends
                assert ends_at_ms(period, window) == ends
