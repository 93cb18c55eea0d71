"""A request's spans: a child of its caller's, with its wait and its tries, and no word of what was said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, RunningGateway, World, route_entry, until
from support.redis_server import RedisServer
from support.span_receiver import SpanReceiver, span_receiver

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CHAT = "/v1/chat/completions"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[SpanReceiver]:
    """A collector that gateways started by the test send their spans to."""
    with span_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


async def test_a_held_requests_spans_lead_from_its_caller_to_the_worker(
    receiver: SpanReceiver, world: World, redis_server: RedisServer, tmp_path: Path, worker: FakeWorker
) -> None:
    gateway = await RunningGateway(redis_server.url, tmp_path).start()
    headers = {"authorization": f"Bearer {KEY}", "traceparent": CALLER}
    body = {"model": "small", "messages": [{"role": "user", "content": "private words"}], "max_tokens": 3}
    async with aiohttp.ClientSession(gateway.url, headers=headers) as client:
        asking = asyncio.create_task(_status(client, body))

        async def told() -> bool:
            entries = await world.redis.hvals("hyd:activity:small")
            return bool(entries) and json.loads(entries[0])["waiting"] == 1

        await until(told)
        (entry,) = await world.redis.hvals("hyd:activity:small")
        await world.route("small", route_entry(worker.url))
        assert await asking == 200
    await gateway.stop()

    request = receiver.named("POST inference")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == tuple(CALLER.split("-")[1:3])
    held, attempt = receiver.named("held"), receiver.named("attempt")
    assert held.parent_span_id == attempt.parent_span_id == request.span_id
    # The controller hears of the request's own span; the worker of the try's.
    assert json.loads(entry)["traceparent"].split("-")[2] == request.span_id.hex()
    assert worker.headers[0]["traceparent"].split("-")[1:3] == [request.trace_id.hex(), attempt.span_id.hex()]
    attributes = {item.key: item.value.string_value or item.value.int_value for item in request.attributes}
    assert (attributes["hydrant.model"], attributes["http.response.status_code"]) == ("small", 200)
    assert not [secret for secret in (KEY, "private words") if secret.encode() in receiver.raw]


async def test_without_an_exporter_nothing_of_it_is_loaded_or_sent(
    gateway: RunningGateway, client: aiohttp.ClientSession, worker: FakeWorker, question: dict[str, Any]
) -> None:
    async with client.post(CHAT, json=question, headers={"traceparent": CALLER}) as answer:
        assert answer.status == 200
    assert "traceparent" not in worker.headers[0]


async def _status(client: aiohttp.ClientSession, body: dict[str, Any]) -> int:
    async with client.post(CHAT, json=body) as answer:
        await answer.read()
        return answer.status
