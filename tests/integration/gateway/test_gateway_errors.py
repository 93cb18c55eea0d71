"""Every refusal: status, code, shape, and nothing left reserved."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, PEPPER, RunningGateway, World, key_entry, model_entry, until

from gateway.readmodel.snapshot import hash_key

CHAT = "/v1/chat/completions"


async def refusal(client: aiohttp.ClientSession, body: Any, status: int, **kwargs: Any) -> dict[str, Any]:
    """Posts a chat body (bytes, or JSON); checks the status and the shape; returns the error."""
    data = body if isinstance(body, bytes) else json.dumps(body)
    async with client.post(CHAT, data=data, **kwargs) as answer:
        document = await answer.json()
        assert answer.status == status, document
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"]
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    return document["error"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"temperature": 9}, "temperature"),
        ({"tools": {}}, "tools"),
        ({"cache_salt": "another tenant's"}, "cache_salt"),
        ({"rid": "x"}, "rid"),
        ({"stop_regex": "(a|aa)+$"}, "stop_regex"),
        ({"custom_logit_processor": "pickle"}, "custom_logit_processor"),
    ],
)
async def test_a_wrong_field_is_named(
    gateway: RunningGateway, client: aiohttp.ClientSession, question: dict[str, Any], change: dict[str, Any], param: str
) -> None:
    error = await refusal(client, question | change, 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_media_by_address_is_refused(
    gateway: RunningGateway, client: aiohttp.ClientSession, question: dict[str, Any]
) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}
    await refusal(client, question | {"messages": [{"role": "user", "content": [part]}]}, 400)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'"x"', b"null", b'{"model": NaN}'])
async def test_a_body_that_is_no_json_object(
    gateway: RunningGateway, client: aiohttp.ClientSession, body: bytes
) -> None:
    error = await refusal(client, body, 400)
    assert error["code"] == "invalid_json"


async def test_unknown_and_disabled_models(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    assert (await refusal(client, question | {"model": "nope"}, 404))["code"] == "model_not_found"
    world.models["small"] = model_entry(enabled=False)
    await world.publish()

    async def disabled() -> bool:
        async with client.post(CHAT, json=question) as answer:
            return answer.status == 404

    await until(disabled)
    assert (await refusal(client, question, 404))["code"] == "model_disabled"


async def test_a_key_may_use_its_models_only(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    world.models["other"] = model_entry()
    narrow = "hyd-narrow00-" + "n" * 43
    world.keys[hash_key(narrow, PEPPER)] = key_entry("key_9", models=["small"])
    await world.publish()
    headers = {"authorization": f"Bearer {narrow}"}

    async def known() -> bool:
        async with client.get("/v1/models", headers=headers) as answer:
            return answer.status == 200

    await until(known)
    async with client.get("/v1/models", headers=headers) as answer:
        assert [model["id"] for model in (await answer.json())["data"]] == ["small", "tiny"]
    error = await refusal(client, question | {"model": "other"}, 403, headers=headers)
    assert error["code"] == "model_not_permitted"
    async with client.post(CHAT, json=question | {"model": "tiny"}, headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("header", [None, "", "Bearer ", "Bearer hyd-unknown", "Basic eHg6eXk=", f"Bearer {KEY}x"])
async def test_no_live_key(gateway: RunningGateway, question: dict[str, Any], header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    async with aiohttp.ClientSession(gateway.url) as client:
        error = await refusal(client, question, 401, headers=headers)
        async with client.get("/v1/models", headers=headers) as answer:
            assert answer.status == 401
    assert error["code"] == "invalid_api_key"
    assert KEY not in error["message"]


async def test_an_expired_key_stops(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any]
) -> None:
    world.keys[hash_key(KEY, PEPPER)]["expires_at_ms"] = 1
    await world.publish()

    async def refused() -> bool:
        async with client.post(CHAT, json=question) as answer:
            return answer.status == 401

    await until(refused)


async def test_methods_and_paths(gateway: RunningGateway, client: aiohttp.ClientSession) -> None:
    async with client.get(CHAT) as answer:
        assert answer.status == 405
        assert answer.headers["allow"] == "POST"
    async with client.post("/v1/models") as answer:
        assert answer.status == 405
    async with client.post("/v1/nothing") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("admin_url", "told"),
    [
        ("http://me:pw@127.0.0.1:9999", "http://127.0.0.1:9999"),
        ("http://me:pw@admin.internal:9999", "an address of its own"),
    ],
)
async def test_the_root_says_where_the_endpoints_and_the_admin_ui_are(
    redis_server: Any, tmp_path: Any, admin_url: str, told: str
) -> None:
    gateway = await RunningGateway(redis_server.url, tmp_path, admin_url=admin_url).start(ready=False)
    try:
        async with aiohttp.ClientSession(gateway.url) as client, client.get("/") as answer:
            assert answer.status == 404
            message = (await answer.json())["error"]["message"]
    finally:
        await gateway.stop()
    assert "`/v1`" in message
    assert f"The admin UI is at {told}." in message


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/messages/batches", "/v1/messages/"])
async def test_what_does_not_exist_below_messages_is_told_in_anthropics_shape(
    gateway: RunningGateway, client: aiohttp.ClientSession, path: str
) -> None:
    async with client.post(path, json={}) as answer:
        assert answer.status == 404
        document = await answer.json()
    assert (document["type"], document["error"]["type"]) == ("error", "not_found_error")
    assert f"`{path}`" in document["error"]["message"]


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_a_management_token_is_told_what_it_is_for(
    gateway: RunningGateway, question: dict[str, Any], header: str
) -> None:
    token = "hym-abcdefgh-" + "s" * 43
    async with aiohttp.ClientSession(gateway.url) as client:
        error = await refusal(
            client, question, 401, headers={header: f"Bearer {token}" if header == "authorization" else token}
        )
    assert error["code"] == "invalid_api_key"
    assert "`/admin/v1`" in error["message"]
    assert token not in error["message"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large(gateway: RunningGateway, announced: bool) -> None:
    size = gateway.settings.max_body_bytes + 1
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    if announced:
        # Refused by its announcement: nothing of it is sent.
        writer.write(f"{head}content-length: {size}\r\n\r\n".encode())
    else:
        # Refused when the last byte that is too much arrives, without waiting for the body's end.
        writer.write(f"{head}transfer-encoding: chunked\r\n\r\n{size:x}\r\n".encode() + b" " * size)
    status, _, rest = (await reader.read()).partition(b"\r\n")
    assert status == b"HTTP/1.1 413 Request Entity Too Large"
    assert json.loads(rest.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"
    writer.close()


async def test_a_workers_refusal_reaches_the_client_and_costs_nothing(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.refuse = (
        400,
        {"object": "error", "message": "too long", "type": "BadRequestError", "param": "x", "code": 400},
    )
    for stream in (False, True):
        error = await refusal(client, question | {"stream": stream}, 400)
        assert (error["message"], error["param"]) == ("too long", "x")

    async def released() -> bool:
        return await world.reserved() == 0 and await world.redis.hlen("hyd:attempts") == 0

    await until(released)
    assert await world.events() == []


async def test_a_worker_that_does_not_take_what_the_gateway_sends_has_failed(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.refuse = (415, {"message": "no JSON please"})
    error = await refusal(client, question, 502)
    assert error["code"] == "worker_failed"
    await world.released()
    assert await world.reserved() == 0


async def test_nothing_is_served_before_the_snapshot_is_there(
    redis_server: Any, tmp_path: Any, question: dict[str, Any]
) -> None:
    gateway = await RunningGateway(redis_server.url, tmp_path).start(ready=False)
    try:
        async with aiohttp.ClientSession(gateway.url) as client:
            async with client.get("/ready") as answer:
                assert answer.status == 503
                assert int(answer.headers["retry-after"]) > 0
            async with client.get("/health") as answer:
                assert answer.status == 200
            await refusal(client, question, 503, headers={"authorization": f"Bearer {KEY}"})
    finally:
        await gateway.stop()
