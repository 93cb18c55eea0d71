"""The same Idempotency-Key joins the request in flight, for one bill; afterwards the key means nothing any more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, OTHER_KEY, RunningGateway, World, route_entry, until
from support.redis_server import RedisServer

CHAT = "/v1/chat/completions"
IDEMPOTENT = {"idempotency-key": "order-1042"}


@pytest.fixture(autouse=True)
def _quick_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.idempotency.LINGER_SECONDS", 0.3)


async def ask(
    client: aiohttp.ClientSession, body: dict[str, Any], headers: dict[str, str] | None = None, url: str = ""
) -> tuple[int, bytes, Any]:
    """(status, body, headers) of a request with the key."""
    async with client.post(url + CHAT, json=body, headers=IDEMPOTENT | (headers or {})) as answer:
        return answer.status, await answer.read(), answer.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_joins_for_one_answer_and_one_bill(
    stream: bool, gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker,
    question: dict[str, Any],
) -> None:  # fmt: skip
    worker.token_delay = 0.05
    body = question | {"stream": stream, "max_tokens": 8}
    racing = [asyncio.create_task(ask(client, body)) for _ in range(3)]
    await until(lambda: len(worker.requests) == 1)
    await asyncio.sleep(0.1)  # a late one gets the stream from its beginning, too
    racing.append(asyncio.create_task(ask(client, body)))
    answers = await asyncio.gather(*racing)
    assert {status for status, _, _ in answers} == {200}
    assert len({text for _, text, _ in answers}) == 1
    assert b"eight" in answers[0][1]
    assert len(worker.requests) == 1
    (event,) = await world.until_events(1)
    assert (event["outcome"], event["completion_tokens"]) == ("ok", 8)
    # The key is forgotten with the end: no free ride.
    assert await world.redis.keys("hyd:idem:*") == []
    assert (await ask(client, body))[0] == 200
    assert len(await world.until_events(2)) == 2


async def test_a_retry_after_a_clients_timeout_finds_the_work_still_running(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.gate = asyncio.Event()
    first = asyncio.create_task(ask(client, question))
    await until(lambda: worker.active == 1)
    first.cancel()
    await asyncio.sleep(0.1)
    again = asyncio.create_task(ask(client, question))
    await asyncio.sleep(0.5)  # longer than the work would have gone on without it
    worker.gate.set()
    assert (await again)[0] == 200
    assert len(worker.requests) == 1
    (event,) = await world.until_events(1)
    assert event["outcome"] == "ok"


async def test_work_that_nobody_comes_back_for_ends(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.gate = asyncio.Event()
    first = asyncio.create_task(ask(client, question))
    await until(lambda: worker.active == 1)
    first.cancel()
    (event,) = await world.until_events(1)
    assert (event["outcome"], event["reserved_nusd"]) == ("client_closed", 0)
    await until(lambda: worker.active == 0)
    assert await world.redis.keys("hyd:idem:*") == []


async def test_another_body_is_refused_and_another_tenant_is_not_concerned(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.gate = asyncio.Event()
    first = asyncio.create_task(ask(client, question))
    await until(lambda: worker.active == 1)
    status, text, _ = await ask(client, question | {"max_tokens": 2})
    assert (status, b"idempotency_key_reused" in text) == (422, True)
    other = asyncio.create_task(ask(client, question, {"authorization": f"Bearer {OTHER_KEY}"}))
    await until(lambda: worker.active == 2)
    worker.gate.set()
    assert [status for status, _, _ in await asyncio.gather(first, other)] == [200, 200]


async def test_on_another_gateway_it_is_told_to_ask_again(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, redis_server: RedisServer, worker: FakeWorker,
    question: dict[str, Any], tmp_path: Path,
) -> None:  # fmt: skip
    other = await RunningGateway(redis_server.url, tmp_path / "other").start()
    await world.until_read()
    worker.gate = asyncio.Event()
    first = asyncio.create_task(ask(client, question))
    await until(lambda: worker.active == 1)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as elsewhere:
        status, text, headers = await ask(elsewhere, question, url=other.url)
        assert (status, b"idempotency_key_in_flight" in text, headers["retry-after"]) == (409, True, "1")
        status, _, _ = await ask(elsewhere, question | {"max_tokens": 2}, url=other.url)
        assert status == 422
        worker.gate.set()
        assert (await first)[0] == 200
        assert (await ask(elsewhere, question, url=other.url))[0] == 200
    await other.stop()
    assert await world.redis.hlen("hyd:attempts") == len(await world.until_events(2)) == 2


async def test_a_lock_lives_as_long_as_its_request_and_no_longer_than_its_gateway(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.gate = asyncio.Event()
    first = asyncio.create_task(ask(client, question))
    await until(lambda: worker.active == 1)
    (lock,) = await world.redis.keys("hyd:idem:ten_1:*")
    assert 0 < await world.redis.pttl(lock) <= 15_000
    await world.redis.pexpire(lock, 3_000)

    async def renewed() -> bool:
        return await world.redis.pttl(lock) > 10_000

    await until(renewed)
    worker.gate.set()
    assert (await first)[0] == 200


async def test_another_try_on_another_worker_keeps_the_lock(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, second: FakeWorker,
    question: dict[str, Any],
) -> None:  # fmt: skip
    await world.route("small", route_entry(worker.url, prefer=2), route_entry(second.url, "grp_2"))
    await world.until_read()
    worker.die_after, second.gate = -1, asyncio.Event()
    first = asyncio.create_task(ask(client, question))
    await until(lambda: second.active == 1)
    await world.until_events(1)
    assert len(await world.redis.keys("hyd:idem:*")) == 1
    second.gate.set()
    assert (await first)[0] == 200
    await world.until_events(2)
    assert await world.redis.keys("hyd:idem:*") == []


@pytest.mark.parametrize("key", ["", "x" * 256, "two words"])
async def test_a_key_that_is_none_is_refused(
    key: str, gateway: RunningGateway, client: aiohttp.ClientSession, question: dict[str, Any]
) -> None:
    status, text, _ = await ask(client, question, {"idempotency-key": key})
    assert (status, b"Idempotency-Key" in text) == (400, True)


async def test_what_is_refused_is_refused_to_all_and_locks_nothing(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    await world.redis.hset("hyd:balance", "ten_1", 1)
    status, text, _ = await ask(client, question)
    assert (status, b"insufficient_quota" in text) == (429, True)
    assert await world.redis.keys("hyd:idem:*") == []
