"""HTTP/1.1 as clients may speak it, to a server with the gateway's protocol and an application that tells what came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from support.gateway_process import until

from gateway.clients.connection import Connection
from gateway.clients.reply import Receive, Scope, Send, client_of

PLAIN = [(b"content-type", b"text/plain")]


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what was asked: method, path, query and body; by its path in other ways."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    path = scope["path"]
    told = b"%b %b?%b %d" % (scope["method"].encode(), path.encode(), scope["query_string"], len(body))
    if path == "/slow":
        await asyncio.sleep(0.3)
    if path == "/nothing":
        return
    if path == "/short":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"1234", "more_body": False})
    elif path == "/injected":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nset-cookie: b")]})
    elif path in ("/stream", "/broken"):
        await send({"type": "http.response.start", "status": 200, "headers": PLAIN})
        for part in (b"one ", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if path == "/broken":
            raise KeyError(path)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    else:
        length = (b"content-length", str(len(told)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*PLAIN, length]})
        await send({"type": "http.response.body", "body": told, "more_body": False})


@asynccontextmanager
async def serving(app: Any = tell, **options: Any) -> AsyncIterator[uvicorn.Server]:
    """A server, on a free port."""
    config = uvicorn.Config(
        app, port=0, http=Connection, ws="none", lifespan="off", log_config=None, date_header=False,
        server_header=False, timeout_graceful_shutdown=2, **options,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    try:
        await until(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        await task


async def connect(server: uvicorn.Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])


async def ask(server: uvicorn.Server, *parts: bytes) -> bytes:
    """Everything that the server answers to these bytes, up to its closing the connection."""
    reader, writer = await connect(server)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0.01)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


def get(path: str, *lines: str, last: bool = True, method: str = "GET") -> bytes:
    """A request's head; `last`: of its connection."""
    closing = ["connection: close"] if last else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *closing, *lines, "", ""]).encode()


def plain(told: bytes, *, last: bool = True) -> bytes:
    """The answer that tells this."""
    closing = b"connection: close\r\n" if last else b""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n%b\r\n" % (len(told), closing)
    return head + told


async def test_a_request_is_told_as_it_came() -> None:
    async with serving() as server:
        assert await ask(server, get("/a%20b?c=%20d")) == plain(b"GET /a b?c=%20d 0")
        assert await ask(server, get("/", "content-length: 3", method="POST"), b"abc") == plain(b"POST /? 3")
        chunked = get("/", "transfer-encoding: chunked", method="POST")
        assert await ask(server, chunked, b"2\r\nab\r\n", b"1\r\nc\r\n0\r\nx-trailer: 1\r\n\r\n") == plain(b"POST /? 3")


async def test_requests_that_come_at_once_are_answered_in_their_order() -> None:
    sent = get("/slow", last=False) + get("/second", "content-length: 2", last=False, method="POST") + b"ab"
    async with serving() as server:
        assert await ask(server, sent + get("/third")) == (
            plain(b"GET /slow? 0", last=False) + plain(b"POST /second? 2", last=False) + plain(b"GET /third? 0")
        )


async def test_a_body_larger_than_what_is_read_ahead_arrives() -> None:
    body = b"x" * 5_000_000
    async with serving() as server:
        told = await ask(server, get("/", f"content-length: {len(body)}", method="POST"), body)
    assert told == plain(b"POST /? 5000000")


async def test_who_waits_for_a_word_before_its_body_gets_it() -> None:
    async with serving() as server:
        reader, writer = await connect(server)
        writer.write(get("/", "content-length: 2", "expect: 100-continue", method="POST"))
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert await asyncio.wait_for(reader.read(), 10) == plain(b"POST /? 2")
        writer.close()


async def test_answers_without_a_length_come_in_chunks_or_end_with_the_connection() -> None:
    async with serving() as server:
        chunked = await ask(server, get("/stream"))
        assert chunked.endswith(
            b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n"
        )
        old = await ask(server, b"GET /stream HTTP/1.0\r\n\r\n")
        assert old.endswith(b"connection: close\r\n\r\none two")
        assert b"chunked" not in old
        assert (await ask(server, get("/stream", method="HEAD"))).endswith(b"\r\n\r\n")
        head = await ask(server, get("/", method="HEAD"))
        assert head.endswith(b"content-length: 9\r\nconnection: close\r\n\r\n")


@pytest.mark.parametrize("path", ["/nothing", "/injected"])
async def test_a_request_that_the_application_leaves_is_answered_with_500(path: str) -> None:
    async with serving() as server:
        assert (await ask(server, get(path, last=False))).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")


@pytest.mark.parametrize("path", ["/short", "/broken"])
async def test_an_answer_that_breaks_off_does_not_look_whole(path: str) -> None:
    async with serving() as server:
        answer = await ask(server, get(path, last=False))
    assert not answer.endswith((b"0\r\n\r\n", b"1234"))
    assert b"set-cookie" not in answer


async def test_what_asks_for_another_protocol_is_answered_in_this_one() -> None:
    async with serving() as server:
        upgrade = get("/", "connection: upgrade", "upgrade: h2c", last=False)
        assert await ask(server, upgrade, b"no HTTP") == plain(b"GET /? 0")


async def test_an_idle_connection_is_kept_for_a_while() -> None:
    async with serving(timeout_keep_alive=1) as server:
        reader, writer = await connect(server)
        for _ in range(2):
            writer.write(get("/", last=False))
            answer = plain(b"GET /? 0", last=False)
            assert await asyncio.wait_for(reader.readexactly(len(answer)), 10) == answer
            await asyncio.sleep(0.6)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_server_that_stops_ends_what_it_has_begun_and_takes_no_more() -> None:
    async with serving() as server:
        (idle, waiting), (busy, writer) = await connect(server), await connect(server)
        writer.write(get("/slow", last=False))
        await asyncio.sleep(0.02)
        server.should_exit = True
        assert await asyncio.wait_for(busy.read(), 10) == plain(b"GET /slow? 0")
        assert await asyncio.wait_for(idle.read(), 10) == b""
        waiting.close()
        writer.close()


async def test_who_leaves_is_noticed_and_not_after_its_answer() -> None:
    clients = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clients.append(client_of(scope))
        if scope["path"] == "/wait":
            await client_of(scope).gone
        else:
            await tell(scope, receive, send)

    async with serving(app) as server:
        await ask(server, get("/"))
        _, writer = await connect(server)
        writer.write(get("/wait"))
        await asyncio.sleep(0.05)
        writer.close()
        await until(lambda: clients[1].gone.done())
        assert not clients[0].gone.done()
