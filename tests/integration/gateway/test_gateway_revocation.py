"""A held request whose key, tenant or model changes while it waits; a client that stops reading."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import aiohttp
import pytest
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, PEPPER, RunningGateway, World, model_entry, route_entry, tenant_entry, until
from support.redis_server import RedisServer

from gateway.clock import now_ms
from gateway.readmodel.snapshot import hash_key

CHAT = "/v1/chat/completions"
DIGEST = hash_key(KEY, PEPPER)


def revoke(world: World) -> None:
    del world.keys[DIGEST]


def disable_tenant(world: World) -> None:
    world.tenants["ten_1"] = tenant_entry(enabled=False)


def narrow(world: World) -> None:
    world.keys[DIGEST]["models"] = ["other"]


def disable_model(world: World) -> None:
    world.models["small"] = model_entry(enabled=False)


def delete_model(world: World) -> None:
    world.models.clear()


CHANGES = [
    (revoke, 401, "invalid_api_key"),
    (disable_tenant, 401, "invalid_api_key"),
    (narrow, 403, "model_not_permitted"),
    (disable_model, 404, "model_disabled"),
    (delete_model, 404, "model_not_found"),
]


@pytest.mark.parametrize(("change", "status", "code"), CHANGES)
async def test_a_change_ends_the_waits_that_it_makes_pointless(
    cold_gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any], change: Any,
    status: int, code: str,
) -> None:  # fmt: skip
    asking = asyncio.create_task(client.post(CHAT, json=question).__aenter__())
    await until(lambda: cold_gateway.app.held == 1)
    change(world)
    await world.publish()
    answer = await asking
    assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)
    await world.released()
    assert await world.reserved() == 0


async def test_a_key_that_expires_in_the_line_is_not_served(
    cold_gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker,
    question: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    expiry = now_ms() + 3_600_000
    world.keys[DIGEST]["expires_at_ms"] = expiry
    await world.applied()
    asking = asyncio.create_task(client.post(CHAT, json=question).__aenter__())
    await until(lambda: cold_gateway.app.held == 1)
    monkeypatch.setattr("gateway.inference.now_ms", lambda: expiry)
    await world.route("small", route_entry(worker.url, capacity=1))
    answer = await asking
    assert answer.status == 401
    assert worker.requests == []
    await until(lambda: cold_gateway.app._routes.running("small") == {})


async def test_a_client_that_reads_nothing_is_gone_after_the_stall_time(
    world: World, redis_server: RedisServer, tmp_path: Any, worker: FakeWorker, question: dict[str, Any]
) -> None:
    world.models["small"] = model_entry(context_length=10**6)
    worker.context = 10**6
    await world.redis.hset("hyd:balance", "ten_1", 10**15)
    await world.publish()
    await world.route("small", route_entry(worker.url))
    gateway = await RunningGateway(redis_server.url, tmp_path, stall_timeout_s=0.5).start()
    await world.until_read()
    body = json.dumps(question | {"stream": True, "max_tokens": 500_000}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1])))
        client.sendall(head.encode() + body)
        (event,) = await world.until_events(1)
        assert event["outcome"] == "client_closed"
        assert 0 < event["completion_tokens"] < 500_000
        await until(lambda: worker.active == 0)
        assert gateway.app._routes.running("small") == {}
    await world.released()
    await gateway.stop()
