"""The management API through the gateway: only its paths, no cookies, nobody's word on addresses, and a clear answer
when the admin process is away."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from support.admin_app import admin_process
from support.gateway_process import RunningGateway, World
from support.redis_server import RedisServer

from gateway.forward import MAX_BODY_BYTES, is_forwarded
from registry.db import make_engine, make_session_factory, session_scope
from registry.ops import tokens
from registry.settings import load_secrets


class StandIn:
    """A server in the admin process' place, that notes what it is asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[web.BaseRequest, bytes]] = []
        self.breaks_off = False
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append((request, await request.read()))
        headers = {"Set-Cookie": "session=1", "Connection": "X-Secret", "X-Secret": "1", "Retry-After": "7"}
        if not self.breaks_off:
            return web.Response(status=409, text="answer", headers=headers)
        part = web.StreamResponse(headers={"Content-Length": "1000"})
        await part.prepare(request)
        await part.write(b"x" * 10)
        assert request.transport is not None
        request.transport.close()
        return part


@pytest_asyncio.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    """A running one."""
    stand_in = StandIn()
    runner = web.ServerRunner(web.Server(stand_in.answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stand_in.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield stand_in
    await runner.cleanup()


@pytest_asyncio.fixture
async def forwarding(
    world: World, redis_server: RedisServer, tmp_path: Path, stand_in: StandIn
) -> AsyncIterator[RunningGateway]:
    """A gateway in front of it."""
    gateway = await RunningGateway(redis_server.url, tmp_path, admin_url=stand_in.url).start()
    yield gateway
    await gateway.stop()


async def raw(gateway: RunningGateway, request: bytes) -> bytes:
    """Sends bytes as they are, and reads the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
    writer.write(request)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("path", "forwarded"),
    [
        ("/admin/v1/tenants", True), ("/admin/v1/models/org/x", True), ("/key/generate", True), ("/spend/logs", True),
        ("/v1/model/info", True), ("/team/list", True), ("/team/delete", True), ("/user/info", True),
        ("/user/list", True), ("/user/delete", True), ("/user/delete/", False),
        ("/team/other", False), ("/admin/v1", False), ("/admin/v1/", False), ("/admin/v1/../login", False),
        ("/admin/v1/a/./b", False), ("/admin/v1//login", False), ("/admin/v1/a\\b", False), ("/login", False),
        ("/key/other", False), ("/users", False), ("/", False), ("/static/app/app.css", False),
    ],
)  # fmt: skip
def test_only_the_management_apis_paths_are_passed_on(path: str, forwarded: bool) -> None:
    assert is_forwarded(path) is forwarded


async def test_a_request_is_passed_on_without_what_is_not_its_business(
    forwarding: RunningGateway, stand_in: StandIn
) -> None:
    head = (
        "POST /admin/v1/models/org%2Fx/warm?a=%2F&b=1 HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer hym-1\r\n"
        "Cookie: hydrant_admin=stolen\r\nX-Forwarded-For: 9.9.9.9, 1.2.3.4\r\nX-Forwarded-Host: evil\r\n"
        "Forwarded: for=1.2.3.4\r\n"
        "X-Real-IP: 1.2.3.4\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nIdempotency-Key: k\r\nx-request-id: mine-1\r\n"
        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    answer = await raw(forwarding, head.encode())
    (request, body) = stand_in.requests[0]
    assert (request.method, request.raw_path, body) == ("POST", "/admin/v1/models/org%2Fx/warm?a=%2F&b=1", b"{}")
    headers = request.headers
    assert headers["Authorization"] == "Bearer hym-1"
    assert headers["Idempotency-Key"] == "k"
    assert headers["X-Request-Id"] == "mine-1"
    # uvicorn believes a proxy on this machine, and of its list the last address only.
    assert headers.getall("X-Forwarded-For") == ["1.2.3.4"]
    assert headers["Host"] == stand_in.url.removeprefix("http://")
    for name in ("Cookie", "X-Forwarded-Host", "Forwarded", "X-Real-IP", "X-Hop"):
        assert name not in headers
    sent, _, text = answer.partition(b"\r\n\r\n")
    assert sent.startswith(b"HTTP/1.1 409")
    assert text == b"answer"
    assert b"retry-after: 7" in sent.lower()
    assert sent.lower().count(b"x-request-id") == 1
    for name in (b"set-cookie", b"x-secret"):
        assert name not in sent.lower()


async def test_pages_and_sign_in_are_not_reached(forwarding: RunningGateway, stand_in: StandIn) -> None:
    for path in (
        "/login",
        "/admin/v1/../login",
        "/admin/v1/%2e%2e/login",
        "/admin/v1//login",
        "/admin/v1/x/..\\..\\login",
    ):
        answer = await raw(forwarding, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404"), path
    assert stand_in.requests == []


async def test_no_request_is_steered_to_another_host(forwarding: RunningGateway, stand_in: StandIn) -> None:
    for target in (
        "http://127.0.0.1:1/admin/v1/tenants",
        "http://evil.example@127.0.0.1:1/admin/v1/tenants",
        "/admin/v1/tenants?url=http://127.0.0.1:1/",
        "/admin/v1/%2F%2F127.0.0.1:1",
        "/admin/v1/..%2f..%2flogin",
        "/admin/v1/@127.0.0.1:1/",
        "//127.0.0.1:1/admin/v1/tenants",
        "/admin/v1/x%00y",
    ):
        request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:1\r\nX-Forwarded-Host: evil\r\nConnection: close\r\n\r\n"
        answer = await raw(forwarding, request.encode())
        # The management API's own answer, or none of it: nobody tried to reach another port.
        assert answer[9:12] in (b"409", b"404", b"400"), target
    host = stand_in.url.removeprefix("http://")
    assert stand_in.requests
    for request_, _ in stand_in.requests:
        assert request_.headers["Host"] == host
        assert request_.raw_path.startswith("/admin/v1/")
        assert "login" not in request_.raw_path
    assert not [request_ for request_, _ in stand_in.requests if "X-Forwarded-Host" in request_.headers]


async def test_a_large_body_is_refused_before_it_is_passed_on(forwarding: RunningGateway, stand_in: StandIn) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 100_000 + 2):
            yield b"x" * 100_000

    async with aiohttp.ClientSession() as session:
        for data in (b"x" * (MAX_BODY_BYTES + 1), endless()):
            async with session.post(forwarding.url + "/key/generate", data=data) as answer:
                assert answer.status == 413
                assert (await answer.json())["error"]["code"] == "request_too_large"
    assert stand_in.requests == []


async def test_an_answer_that_breaks_off_is_not_taken_for_whole(forwarding: RunningGateway, stand_in: StandIn) -> None:
    stand_in.breaks_off = True
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(forwarding.url + "/admin/v1/usage.csv") as answer:
                await answer.read()
        async with session.get(forwarding.url + "/health") as answer:
            assert answer.status == 200


async def test_an_admin_process_that_is_away_is_503(world: World, redis_server: RedisServer, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    gateway = await RunningGateway(redis_server.url, tmp_path, admin_url=url).start()
    async with aiohttp.ClientSession() as session, session.get(gateway.url + "/admin/v1/tenants") as answer:
        document = await answer.json()
        assert (answer.status, document["error"]["code"]) == (503, "admin_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    await gateway.stop()


async def test_one_base_url_makes_a_key_and_uses_it(redis_server: RedisServer, tmp_path: Path) -> None:
    """The real admin process behind a real gateway: a tenant, a key, and the gateway that knows it."""
    loop = asyncio.get_running_loop()
    process = admin_process(tmp_path, redis_server.url)
    url = await loop.run_in_executor(None, process.__enter__)
    try:
        pepper = load_secrets(tmp_path / "secrets.json")["key_pepper"]
        engine = make_engine(f"sqlite:///{tmp_path}/hydrant.db")
        with session_scope(make_session_factory(engine)) as session:
            _, token = tokens.create_token(session, "test", pepper, name="t", role="owner")
        engine.dispose()
        gateway = RunningGateway(redis_server.url, tmp_path, admin_url=url)
        object.__setattr__(gateway.settings, "key_pepper", pepper.encode())
        await gateway.start(ready=False)
        try:
            await _make_and_use(gateway.url, token)
        finally:
            await gateway.stop()
    finally:
        await loop.run_in_executor(None, process.__exit__, None, None, None)


async def _make_and_use(base: str, token: str) -> None:
    async with aiohttp.ClientSession(base, headers={"authorization": f"Bearer {token}"}) as session:

        async def post(path: str, body: Any) -> Any:
            async with session.post(path, json=body) as answer:
                assert answer.status < 300, await answer.text()
                return await answer.json()

        async with session.get("/admin/v1/openapi.json") as answer:
            assert (await answer.json())["openapi"] == "3.1.0"
        await post("/admin/v1/tenants", {"name": "acme"})
        made = [await post("/admin/v1/keys", {"tenant": "acme", "name": "a"}), await post("/key/generate", {})]
        for key in (made[0]["plaintext"], made[1]["key"]):
            async with asyncio.timeout(10):
                while True:
                    async with session.get("/v1/models", headers={"authorization": f"Bearer {key}"}) as answer:
                        if answer.status == 200:
                            break
                    await asyncio.sleep(0.02)
