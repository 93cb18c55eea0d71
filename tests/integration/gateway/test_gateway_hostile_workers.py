"""What a worker that has gone mad can send, to a gateway process: memory stays bounded, the client is told or its
stream ends with an error, the bill is settled, and another tenant's model answers all the while."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support.fake_worker import FakeWorker, chat_chunk
from support.gateway_child import CHAT, Peak, another_tenant, running
from support.gateway_process import World, environment, model_entry, route_entry, until
from support.raw_worker import RawWorker
from support.redis_server import RedisServer

MB = 1024 * 1024
FAILURES = ("worker_failed", "hold_timeout")
"""It failed; or it was lost, and no other came in time."""
GROUPS = 11
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
TOKEN = chat_chunk(
    "mad", 0, {"reasoning_content": None, "content": "one"}, usage={"prompt_tokens": 1, "completion_tokens": 1}
)


class Mad:
    """A gateway process whose model `mad` runs on a worker that says what the test wants."""

    def __init__(self, url: str, pid: int, client: aiohttp.ClientSession, worker: RawWorker, world: World) -> None:
        self.url, self.pid, self.client, self.worker, self.world = url, pid, client, worker, world

    @asynccontextmanager
    async def unharmed(self, allowed_bytes: int) -> AsyncIterator[None]:
        """Neither memory nor the other tenant may suffer by what happens inside, and nothing stays reserved."""
        question = {"model": "small", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 3}
        async with another_tenant(self.url, question):
            peak = Peak(self.pid)
            yield
        assert peak.grown < allowed_bytes
        await until(self._settled)

    async def _settled(self) -> bool:
        owed = [event["reserved_nusd"] for event in await self.world.events() if event["tenant_id"] == "ten_1"]
        return await self.world.reserved() == sum(owed)

    async def ask(self, path: str = CHAT, *, stream: bool, number: int = 0) -> tuple[int, bytes]:
        """(status, body) of a request to it; a group that broke off is passed over, so that each case has its own."""
        body: dict[str, Any] = {"model": f"mad{number}", "max_tokens": 3, "stream": stream}
        body |= {"input": "x"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "x"}]}
        if path == "/v1/responses":
            body["max_output_tokens"] = body.pop("max_tokens")
        async with self.client.post(path, json=body, timeout=aiohttp.ClientTimeout(total=60)) as answer:
            return answer.status, await answer.read()


@pytest_asyncio.fixture
async def mad(world: World, worker: FakeWorker, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Mad]:
    """A running one."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    raw = await RawWorker(silent).start()
    for number in range(GROUPS):
        world.models[f"mad{number}"] = model_entry(model_id=f"mod_{number + 2}")
    world.hold["deadline_s"] = 0.3  # a worker that broke off is passed over, and there is no other
    await world.publish()
    await world.route("small", route_entry(worker.url))
    for number in range(GROUPS):
        await world.route(f"mad{number}", route_entry(raw.url, f"grp_mad{number}"))
    environ = environment(redis_server, tmp_path, HYDRANT_STALL_TIMEOUT_S="1")
    async with running(environ) as (process, client):
        await world.until_read()
        yield Mad(f"http://127.0.0.1:{environ['HYDRANT_GATEWAY_PORT']}", process.pid, client, raw, world)
    await raw.stop()


def failed(status: int, body: bytes) -> str:
    """The code of an error in OpenAI's shape: of a whole answer, or of a stream's last event."""
    if status == 200:
        body = body.strip().rpartition(b"\n\n")[2].removeprefix(b"data: ")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


MALFORMED = {
    "no http": b"\x00\xff not http\r\n\r\n",
    "no status": b"HTTP/1.1 abc\r\n\r\n",
    "status out of range": b"HTTP/1.1 000 Odd\r\ncontent-length: 2\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a length that is none": b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}",
    "a chunk that is none": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "shorter than its length": b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{}",
    "no JSON": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n<ht>",
    "a redirect": b"HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    "a success that is no 200": b"HTTP/1.1 204 None\r\n\r\n",
    "gzip": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize("stream", [False, True])
async def test_malformed_answers_are_the_workers_failure(mad: Mad, stream: bool) -> None:
    async with mad.unharmed(16 * MB):
        for number, (name, answer) in enumerate(MALFORMED.items()):

            async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
                writer.write(answer)
                writer.close()

            mad.worker.script = say
            status, body = await mad.ask(stream=stream, number=number)
            assert failed(status, body) in FAILURES, name


STREAMS = {
    "no JSON": b"data: {nope\n\n",
    "no object": b"data: [1]\n\n",
    "choices that are none": b'data: {"choices": 5}\n\n',
    "a count below zero": TOKEN.replace(b'"completion_tokens":1', b'"completion_tokens":-1'),
    "a NUL": b"\x00\x00\n\n" + b"data: \x00\n\n",
    "no UTF-8": b'data: {"a": "\xff\xfe"}\n\n',
    "an end without a finish": TOKEN + b"data: [DONE]\n\n",
    "nothing": b"",
}


async def test_malformed_events_end_the_stream_with_an_error(mad: Mad) -> None:
    async with mad.unharmed(16 * MB):
        for number, (name, events) in enumerate(STREAMS.items()):

            async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter, events: bytes = events) -> None:
                writer.write(STREAM + TOKEN + events)
                writer.close()

            mad.worker.script = say
            status, body = await mad.ask(stream=True, number=number)
            assert failed(status, body) in FAILURES, name


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
async def test_an_event_that_never_ends_is_given_up(mad: Mad, path: str) -> None:
    opening = b"event: response.created\ndata: {}\n\n" if path == "/v1/responses" else b""

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + opening + b"data: ")
        await mad.worker.pour(writer, b"x" * MB, 100)

    mad.worker.script = say
    async with mad.unharmed(48 * MB):
        status, body = await mad.ask(path, stream=True)
    assert failed(status, body) in FAILURES
    assert mad.worker.sent_bytes < 90 * MB


async def test_openings_that_never_end_are_given_up(mad: Mad) -> None:
    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        event = b'event: response.created\ndata: {"x":"%s"}\n\n' % (b"x" * 10_000)
        await mad.worker.pour(writer, event * 100, 100)

    mad.worker.script = say
    async with mad.unharmed(48 * MB):
        status, body = await mad.ask("/v1/responses", stream=True)
    assert failed(status, body) in FAILURES


HEADS = {
    "many headers": b"x-a: %s\r\n" % (b"a" * 1000),
    "one header": b"a" * 1000,
    "informational answers": b"\r\nHTTP/1.1 100 Continue\r\n",
}


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_that_never_ends_is_given_up(mad: Mad, name: str) -> None:
    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n" if "100" in str(HEADS[name]) else b"HTTP/1.1 200 OK\r\nx: ")
        await mad.worker.pour(writer, HEADS[name] * 1000, 2_000 if name == "informational answers" else 60)

    mad.worker.script = say
    # aiohttp makes objects of all informational answers that one read brings, before it looks at the first.
    async with mad.unharmed(256 * MB if name == "informational answers" else 48 * MB):
        status, body = await mad.ask(stream=False)
    assert failed(status, body) in FAILURES


async def test_an_answer_of_100_mb_is_given_up(mad: Mad) -> None:
    async def announced(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (100 * MB))
        await mad.worker.pour(writer, b" " * MB, 100)

    async def unannounced(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await mad.worker.pour(writer, b" " * MB, 100)
        writer.close()

    async def refusal(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 No\r\n\r\n")
        await mad.worker.pour(writer, b" " * MB, 100)
        writer.close()

    mad.worker.script = announced
    async with mad.unharmed(16 * MB):  # nothing of it is read
        assert failed(*await mad.ask(stream=False)) in FAILURES
    mad.worker.script = unannounced
    async with mad.unharmed(240 * MB):  # the 64 MiB that an answer may have: grown by and by, and copied once
        assert failed(*await mad.ask(stream=False, number=1)) in FAILURES
    mad.worker.script = refusal
    async with mad.unharmed(160 * MB):
        status, body = await mad.ask(stream=False, number=2)
    assert status == 400
    assert b"The worker refused the request." in body


async def test_a_stall_in_mid_stream_ends_it_with_an_error(mad: Mad) -> None:
    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + TOKEN)
        await asyncio.sleep(3600)

    mad.worker.script = say
    async with mad.unharmed(16 * MB):
        status, body = await mad.ask(stream=True)
    assert b'"one"' in body
    assert failed(status, body) in FAILURES
    (event,) = [event for event in await mad.world.events() if event["model"] == "mad0"]
    assert (event["outcome"], event["completion_tokens"]) == ("upstream_error", 1)


@pytest.mark.parametrize("late", [False, True])
async def test_what_comes_behind_an_answer_answers_nobody_else(mad: Mad, late: bool) -> None:
    """A worker that says more than its content-length: the rest must not become the next request's answer."""

    def whole(word: str) -> bytes:
        choice = {"index": 0, "message": {"role": "assistant", "content": word}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not late:
            writer.write(whole("mine") + whole("planted"))
            return
        writer.write(whole("mine"))
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.write(whole("planted"))

    mad.worker.script = say
    for _ in range(3):
        status, body = await mad.ask(stream=False)
        assert (status, b'"mine"' in body) == (200, True)
        await asyncio.sleep(0.4)
