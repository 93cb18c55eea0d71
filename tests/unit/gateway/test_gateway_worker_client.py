"""The client for workers against sockets that answer well, badly, late, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.workers import worker_connection
from gateway.workers.worker_client import Unreached, WorkerClient
from gateway.workers.worker_connection import Lost

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


class Worker:
    """A server whose every connection is handled by `talk`, with the number of connections so far."""

    def __init__(self, talk: Talk) -> None:
        self.connections = 0
        self.closed = asyncio.Event()
        self._talk = talk
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._talk(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed.set()
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()


@asynccontextmanager
async def worker(talk: Talk) -> AsyncIterator[Worker]:
    served = Worker(talk)
    server = await asyncio.start_server(served.handle, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield served
    finally:
        server.close()


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    return head + await reader.readexactly(length)


def says(*answers: bytes, then_close: bool = False) -> Talk:
    """Answers each request by the same bytes, in parts that are sent one by one."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        while True:
            await request(reader)
            for part in answers:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.001)
            if then_close:
                return

    return talk


@asynccontextmanager
async def client(stall_s: float = 5.0) -> AsyncIterator[WorkerClient]:
    made = WorkerClient(1.0, stall_s)
    try:
        yield made
    finally:
        made.close()


async def ask(made: WorkerClient, url: str, body: bytes = b"{}") -> tuple[int, bytes]:
    answer = await made.post(url, {"content-type": "application/json"}, body)
    try:
        data = b""
        while part := await answer.read():
            data += part
        return answer.status, data
    finally:
        answer.close()


async def test_what_is_sent() -> None:
    seen = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        seen.append(await request(reader))
        writer.write(OK)

    async with worker(talk) as served, client() as made:
        assert await ask(made, served.url + "/chat?x=1", b'{"a":1}') == (200, b"hi")
    host = served.url.split("/")[2].encode()
    assert seen == [
        b"POST /v1/chat?x=1 HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n"
        b'{"a":1}' % host
    ]


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\nx-trailer: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK,
    ],
    ids=["content-length", "chunked", "interim"],
)
@pytest.mark.parametrize("cut", [1, 7, 10_000])
async def test_a_whole_answer_keeps_its_connection(answer: bytes, cut: int) -> None:
    parts = [answer[start : start + cut] for start in range(0, len(answer), cut)]
    async with worker(says(*parts)) as served, client() as made:
        for _ in range(3):
            assert await ask(made, served.url) == (200, b"hi")
        assert served.connections == 1


async def test_headers_of_an_interim_answer_are_not_the_answers() -> None:
    async with worker(says(b"HTTP/1.1 103 Hints\r\nx-a: 1\r\n\r\n" + OK)) as served, client() as made:
        answer = await made.post(served.url, {}, b"")
        assert answer.headers == {b"content-length": b"2"}
        answer.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
    ],
    ids=["without a length", "HTTP/1.0", "connection: close"],
)
async def test_an_answer_that_ends_with_its_connection(answer: bytes) -> None:
    async with worker(says(answer, then_close=True)) as served, client() as made:
        assert await ask(made, served.url) == (200, b"hi")
        assert await ask(made, served.url) == (200, b"hi")
        assert served.connections == 2


@pytest.mark.parametrize("junk", [OK, b"junk\x00", b"HTTP/1.1 500 No\r\n"], ids=["an answer", "noise", "half a head"])
@pytest.mark.parametrize("late", [False, True])
async def test_what_follows_an_answer_is_never_the_next_ones(junk: bytes, late: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        while True:
            await request(reader)
            writer.write(OK if late else OK + junk)
            if late:
                await asyncio.sleep(0.01)
                writer.write(junk)

    async with worker(talk) as served, client() as made:
        for _ in range(2):
            assert await ask(made, served.url) == (200, b"hi")
            await asyncio.sleep(0.05)
        assert served.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhi",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 30_000 + b"content-length: 2\r\n\r\nhi",
        b"HTTP/1.1 103 Hints\r\n\r\n" * 10_000 + OK,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
    ids=[
        "nothing", "half a status", "a short body", "chunks without an end", "another coding", "no HTTP", "two lengths",
        "length and chunks", "a bad chunk", "an upgrade", "a bad header", "a huge header", "many headers",
        "many interim answers", "a huge trailer",
    ],
)  # fmt: skip
async def test_what_is_no_whole_answer_is_lost(answer: bytes) -> None:
    async with worker(says(answer, then_close=True)) as served, client() as made:
        with pytest.raises(Lost):
            await ask(made, served.url)


async def test_what_came_before_the_cut_is_read() -> None:
    cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"
    async with worker(says(cut, then_close=True)) as served, client() as made:
        answer = await made.post(served.url, {}, b"")
        await asyncio.sleep(0.05)
        assert await answer.read() == b"hi"
        with pytest.raises(Lost):
            await answer.read()
        answer.close()


async def test_a_kept_connection_that_the_worker_has_just_closed_fails_no_request() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await request(reader)
        writer.write(OK)
        if number == 1:
            # It gives up the idle connection at the moment at which the second request comes.
            await reader.read(1)

    async with worker(talk) as served, client() as made:
        assert await ask(made, served.url) == (200, b"hi")
        assert await ask(made, served.url) == (200, b"hi")
        assert served.connections == 2


async def test_a_closed_kept_connection_is_not_used() -> None:
    async with worker(says(OK, then_close=True)) as served, client() as made:
        for expected in (1, 2, 3):
            assert await ask(made, served.url) == (200, b"hi")
            await asyncio.sleep(0.02)
            assert served.connections == expected


@pytest.mark.parametrize("heard", [b"", b"HTTP/1.1 2"])
async def test_a_request_that_the_worker_had_is_not_sent_again(heard: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_connection, "RACE_S", 0.02)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await request(reader)
        writer.write(OK)
        await request(reader)
        writer.write(heard)
        await asyncio.sleep(0 if heard else 0.1)

    async with worker(talk) as served, client() as made:
        await ask(made, served.url)
        with pytest.raises(Lost):
            await ask(made, served.url)
        assert served.connections == 1


async def test_a_new_connection_that_closes_is_lost_at_once() -> None:
    async with worker(says(b"", then_close=True)) as served, client() as made:
        with pytest.raises(Lost):
            await ask(made, served.url)
        assert served.connections == 1


async def test_a_worker_that_is_gone() -> None:
    async with client() as made:
        async with worker(says(OK)) as served:
            pass
        with pytest.raises(Unreached):
            await ask(made, served.url)


async def test_a_worker_that_dies_with_its_kept_connection_may_have_run_the_request() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await request(reader)
        writer.write(OK)
        await reader.read(1)
        server.close()

    served = Worker(talk)
    server = await asyncio.start_server(served.handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with client() as made:
        await ask(made, url)
        with pytest.raises(Lost):
            await ask(made, url)


@pytest.mark.parametrize("url", ["ftp://x/v1", "http:///v1", "http://x:y/v1"])
async def test_a_url_that_leads_nowhere(url: str) -> None:
    async with client() as made:
        with pytest.raises(Unreached):
            await made.post(url, {}, b"")


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\ny", "a\ry"])
async def test_a_header_cannot_begin_another(value: str) -> None:
    async with worker(says(OK)) as served, client() as made:
        with pytest.raises(Unreached):
            await made.post(served.url, {"x": value}, b"")
        assert served.connections == 0


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi"], ids=["head", "body"])
@pytest.mark.parametrize("kept", [False, True])
async def test_a_silent_worker_is_left(before: bytes, kept: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        if kept:
            await request(reader)
            writer.write(OK)
        await request(reader)
        writer.write(before)
        await reader.readexactly(1)

    async with worker(talk) as served, client(stall_s=0.1) as made:
        if kept:
            await ask(made, served.url)
            await asyncio.sleep(0.15)
        with pytest.raises(Lost, match="silent"):
            await ask(made, served.url)
        await asyncio.wait_for(served.closed.wait(), 5)
        assert served.connections == 1


async def test_a_slow_worker_is_not_silent() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.1)
            writer.write(b"x")

    async with worker(talk) as served, client(stall_s=0.5) as made:
        assert await ask(made, served.url) == (200, b"x" * 8)


async def test_a_slow_reader_bounds_what_is_kept_and_makes_no_worker_silent() -> None:
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        nonlocal sent
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 30000000\r\n\r\n")
        for _ in range(300):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with worker(talk) as served, client(stall_s=0.2) as made:
        answer = await made.post(served.url, {}, b"")
        await asyncio.sleep(0.6)
        assert sent < 20_000_000  # the rest is held back by full sockets
        size = 0
        while part := await answer.read():
            assert len(part) < 2_000_000
            size += len(part)
        answer.close()
        assert size == 30_000_000


async def test_a_large_body_that_is_taken_slowly_arrives() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        left = 30_000_000
        while left:
            left -= len(await reader.read(1_000_000))
            await asyncio.sleep(0.005)
        writer.write(OK)

    async with worker(talk) as served, client(stall_s=0.3) as made:
        assert await ask(made, served.url, b"x" * 30_000_000) == (200, b"hi")


@pytest.mark.parametrize("at", ["head", "body"])
async def test_leaving_early_closes_the_connection(at: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await request(reader)
        if at == "body":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi")
        await reader.readexactly(1)

    async with worker(talk) as served, client() as made:
        asking = asyncio.ensure_future(ask(made, served.url))
        await asyncio.sleep(0.05)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(served.closed.wait(), 5)


async def test_an_idle_connection_that_is_too_old_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with worker(says(OK)) as served, client() as made:
        await ask(made, served.url)
        monkeypatch.setattr(worker_connection, "KEEP_S", 0.01)
        await asyncio.sleep(0.03)
        await ask(made, served.url)
        assert served.connections == 2


async def test_a_connection_to_nowhere_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(type(asyncio.get_running_loop()), "create_connection", never)
    with pytest.raises(Unreached, match="TimeoutError"):
        await WorkerClient(0.05, 1.0).post("http://127.0.0.1:9/v1", {}, b"")
