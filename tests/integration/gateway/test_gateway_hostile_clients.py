"""What clients can do to a connection, against a gateway process: its memory stays bounded, each is told or cut off,
and another tenant is answered all the while."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support.fake_worker import FakeWorker
from support.gateway_child import CHAT, Peak, another_tenant, running
from support.gateway_process import KEY, RunningGateway, World, environment, model_entry, route_entry, until
from support.redis_server import RedisServer

MB = 1024 * 1024
ALLOWED = 24 * MB
"""What the gateway may take beyond its rest: a body of 8 MiB on its way in and out, and room for chance."""


class Child:
    """A gateway process with one worker, and raw connections to it."""

    def __init__(self, environ: dict[str, str], process: asyncio.subprocess.Process, question: dict[str, Any]) -> None:
        self.port = int(environ["HYDRANT_GATEWAY_PORT"])
        self.pid = process.pid
        self.question = question

    @asynccontextmanager
    async def unharmed(self, allowed_bytes: int = ALLOWED) -> AsyncIterator[None]:
        """Neither memory nor the other tenant may suffer by what happens inside."""
        async with another_tenant(f"http://127.0.0.1:{self.port}", self.question):
            peak = Peak(self.pid)
            yield
        assert peak.grown < allowed_bytes

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, *parts: bytes) -> bytes:
        """Sends all parts unless the gateway closes before; returns what it answers up to its end."""
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", self.port))
            try:
                async with asyncio.timeout(15):
                    for part in parts:
                        await loop.sock_sendall(client, part)
            except ConnectionError:
                pass  # refused before all was sent: the answer tells why
            answer = b""
            try:
                async with asyncio.timeout(5):
                    while not answer.endswith(b"}}") and (part := await loop.sock_recv(client, 65536)):
                        answer += part
            except ConnectionError:
                pass  # whatever came before it was cut off
            return answer


@pytest_asyncio.fixture
async def child(
    world: World, worker: FakeWorker, redis_server: RedisServer, tmp_path: Path, question: dict[str, Any]
) -> AsyncIterator[Child]:
    """A running one."""
    world.models["small"] = model_entry(context_length=10**6)
    worker.context = 10**6
    await world.redis.hset("hyd:balance", "ten_1", 10**15)
    await world.publish()
    await world.route("small", route_entry(worker.url, capacity=1000))
    environ = environment(redis_server, tmp_path, HYDRANT_STALL_TIMEOUT_S="2")
    async with running(environ) as (process, _):
        await world.until_read()
        yield Child(environ, process, question)


def head(*lines: str, path: str = CHAT) -> bytes:
    """A request's head with a key."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {KEY}", *lines, "", ""]).encode()


def told(answer: bytes) -> tuple[int, str]:
    """(status, code) of an error in OpenAI's shape."""
    first, _, text = answer.partition(b"\r\n\r\n")
    assert b"application/json" in first.lower(), answer[:500]
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(first.split()[1]), error["code"]


@contextmanager
def narrow_client(port: int) -> Iterator[socket.socket]:
    """A connection that takes a few kilobytes at a time."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        yield client


async def test_bodies_of_100_mb_are_refused_unread(child: Child) -> None:
    piece = b" " * MB
    chunk = b"%x\r\n%s\r\n" % (MB, piece)
    async with child.unharmed():
        announced = await child.send(head(f"content-length: {100 * MB}"), *[piece] * 100)
        chunked = await child.send(head("transfer-encoding: chunked"), *[chunk] * 100, b"0\r\n\r\n")
        managed = await child.send(head(f"content-length: {100 * MB}", path="/admin/v1/tenants"), *[piece] * 100)
    assert told(announced) == told(chunked) == told(managed) == (413, "request_too_large")


FLOODS = {
    "many headers": [b"x-a: %s\r\n" % (b"a" * 1000)] * 64_000,
    "one endless header": [b"x-a: ", *[b"a" * MB] * 64],
    "an endless request line": [b"a" * MB] * 64,
    "endless trailers": [b"x-a: %s\r\n" % (b"a" * 1000)] * 64_000,
    "an endless chunk extension": [b"2;", *[b"a" * MB] * 64],
}


async def test_floods_of_headers_are_cut_off(child: Child) -> None:
    begins = {
        "an endless request line": b"GET /",
        "endless trailers": head("transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\n",
        "an endless chunk extension": head("transfer-encoding: chunked"),
    }
    async with child.unharmed():
        for name, parts in FLOODS.items():
            answer = await child.send(begins.get(name, head().removesuffix(b"\r\n")), *parts)
            # Who goes on sending may find the connection reset before he has read the answer.
            assert not answer or told(answer) == (431, "request_head_too_large"), name
        for large in (b"x: %s\r\n" % (b"a" * 70_000), b"x: %s\r\n" % (b"a" * 700) * 100):
            assert told(await child.send(head().removesuffix(b"\r\n"), large)) == (431, "request_head_too_large")


MALFORMED = [
    b"\x00\x01\x02\x03\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS spoken to a plain port
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST %s HTTP/1.1\r\ncontent-length: -1\r\n\r\n" % CHAT.encode(),
    b"POST %s HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n" % CHAT.encode(),
    b"POST %s HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" % CHAT.encode(),
    b"POST %s HTTP/1.1\r\nno colon\r\n\r\n" % CHAT.encode(),
    b"POST %s HTTP/1.1\r\nx: a\x00b\r\n\r\n" % CHAT.encode(),
    b"GET http:// HTTP/1.1\r\nhost: x\r\n\r\n",
    b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
]


async def test_what_is_no_http_is_told_so_and_closed(child: Child) -> None:
    async with child.unharmed():
        for request in MALFORMED:
            assert told(await child.send(request)) == (400, "invalid_http"), request
        reader, writer = await child.connect()
        writer.write(head("transfer-encoding: chunked") + b"no number\r\n")
        assert b"400 Bad Request" in await asyncio.wait_for(reader.read(), 10)
        writer.close()


async def test_bodies_that_come_byte_by_byte_hold_nobody_up(child: Child, world: World) -> None:
    body = json.dumps(child.question).encode()
    async with child.unharmed():
        connections = [await child.connect() for _ in range(200)]
        for _, writer in connections:
            writer.write(head(f"content-length: {len(body)}", "connection: close"))
        for position in range(20):
            for _, writer in connections:
                writer.write(body[position : position + 1])
            await asyncio.sleep(0.05)
        # Nobody who has not sent a whole request has a slot or a reservation.
        assert await world.reserved("ten_1") == 0
        reader, writer = connections[0]
        writer.write(body[20:])
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200")
        for _, writer in connections:
            writer.close()


async def test_readers_of_a_few_bytes_hold_back_their_own_stream_only(
    child: Child, world: World, worker: FakeWorker
) -> None:
    body = json.dumps(child.question | {"stream": True, "max_tokens": 900_000}).encode()
    request = head(f"content-length: {len(body)}") + body
    loop = asyncio.get_running_loop()
    async with child.unharmed():
        with narrow_client(child.port) as slow, narrow_client(child.port) as silent:
            slow.sendall(request)
            silent.sendall(request)
            slow.setblocking(False)
            for _ in range(30):
                assert await loop.sock_recv(slow, 1)
                await asyncio.sleep(0.1)
            # Who reads nothing at all has gone by the stall time; what it was given is billed, and its worker is free.
            await until(lambda: worker.aborted >= 1)
        await until(lambda: worker.active <= 1)

    async def closed() -> bool:
        return sum(event["outcome"] == "client_closed" for event in await world.events()) == 2

    await until(closed)
    cut = [event["completion_tokens"] for event in await world.events() if event["outcome"] == "client_closed"]
    assert all(0 < tokens < 900_000 for tokens in cut)


async def test_a_half_closed_connection_is_a_client_that_has_gone(
    child: Child, world: World, worker: FakeWorker
) -> None:
    """An answer could still be sent to it; but half-closed and gone look the same from here, and only the worker's
    time tells them apart."""
    body = json.dumps(child.question | {"stream": True, "max_tokens": 50_000}).encode()
    async with child.unharmed():
        for sent in (body, body[:10], b""):
            reader, writer = await child.connect()
            writer.write(head(f"content-length: {len(body)}") + sent)
            if sent == body:
                await reader.readuntil(b"data: ")
            await writer.drain()
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 10)  # it is closed from the other side, too
            writer.close()

    async def settled() -> bool:
        return any(event["outcome"] == "client_closed" for event in await world.events())

    await until(settled)
    await until(lambda: worker.active == 0)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/ch", head().removesuffix(b"\r\n")])
async def test_a_head_that_does_not_come_to_its_end_is_not_waited_for(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("gateway.clients.connection.HEAD_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer == b"" if not sent else told(answer) == (408, "request_timeout")
    writer.close()


async def test_a_body_that_nobody_waits_for_is_not_taken_for_ever(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.clients.connection.LINGER_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
    writer.write(head(f"content-length: {100 * MB}"))

    async def drip() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    try:
        assert b"413" in await asyncio.wait_for(reader.readuntil(b"}"), 10)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1000), 10)
    finally:
        dripping.cancel()
        writer.close()


async def test_a_large_answer_is_not_kept_for_who_does_not_fetch_it(
    gateway: RunningGateway, world: World, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, question: dict[str, Any]
) -> None:
    monkeypatch.setattr("gateway.clients.connection.FETCH_SECONDS", 0.5)
    worker.alter = lambda document: document["choices"][0]["message"].update(content="x" * 16 * MB)
    body = json.dumps(question).encode()
    with narrow_client(int(gateway.url.rsplit(":", 1)[1])) as slow:
        slow.sendall(head(f"content-length: {len(body)}") + body)
        await world.until_events(1)
        assert gateway.connections == 1
        await until(lambda: gateway.connections == 0)
