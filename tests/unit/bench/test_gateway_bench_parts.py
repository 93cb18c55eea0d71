"""The benchmark of gateways: that what it counts is what came, and that its upstream writes what SGLang writes."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from bench.gateway import footprint, upstream, wrk
from bench.gateway.client import Answer, Connection, LoadError
from bench.gateway.crowds import Held, Open
from bench.gateway.footprint import Footprint
from bench.gateway.report import Found, targets
from bench.gateway.rounds import Sample

RECORDED = json.loads((Path(__file__).parents[1] / "gateway/sglang_chunks.json").read_text())
TOKENS = 20


def events(running: bool) -> list[dict[str, Any]]:
    """The documents of a stream of the mock upstream, taken out of their HTTP chunks."""
    body = b"".join(upstream.stream_writes("m", TOKENS, True, running, 8)).split(b"\r\n\r\n", 1)[1]
    found = []
    while body != b"0\r\n\r\n":
        size, rest = body.split(b"\r\n", 1)
        event, body = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        if event != b"data: [DONE]\n\n":
            found.append(json.loads(event[6:]))
    return found


def keys(document: Any) -> Any:
    """The names in a document, in their order, and nothing of its values."""
    if isinstance(document, dict):
        return [(name, keys(value)) for name, value in document.items()]
    return [keys(one) for one in document] if isinstance(document, list) else None


@pytest.mark.parametrize(("running", "recorded"), [(False, 0), (True, 1)])
def test_the_upstream_writes_text_as_sglang_does(running: bool, recorded: int) -> None:
    theirs = json.loads(RECORDED["chat text"][recorded].removeprefix("data: "))
    text = [one for one in events(running) if one["choices"] and one["choices"][0]["delta"].get("content")]
    assert len(text) == TOKENS
    assert all(keys(one) == keys(theirs) for one in text)


def test_the_upstream_counts_its_tokens() -> None:
    counts = [one["usage"]["completion_tokens"] for one in events(running=True) if "usage" in one]
    assert counts == [*range(1, TOKENS + 1), TOKENS, TOKENS]


@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
async def test_the_client_counts_each_event_once_however_bytes_come(size: int) -> None:
    answer = await read(b"".join(upstream.stream_writes("m", TOKENS, True, True, 8)), size)
    assert answer.events == TOKENS + 4  # the role, the tokens, the reason, usage, the end mark
    assert 0 < answer.first_s <= answer.total_s


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_the_client_reads_a_plain_answer_to_its_end(size: int) -> None:
    assert (await read(upstream.plain_answer("m", TOKENS), size)).total_s > 0


async def test_the_client_takes_no_refusal_for_an_answer() -> None:
    with pytest.raises(LoadError, match="429"):
        await read(b"HTTP/1.1 429 Too Many\r\ncontent-length: 2\r\n\r\n{}", 1000)


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    whole = b"".join(upstream.stream_writes("m", TOKENS, True, True, 8))
    with pytest.raises(LoadError, match="closed"):
        await read(whole[:-20], 50, hang_up=True)


async def read(data: bytes, size: int, *, hang_up: bool = False) -> Answer:
    """What the client makes of an answer that comes in pieces."""

    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n")
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)
        if not hang_up:
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await writer.wait_closed()
        over.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
        try:
            return await asyncio.wait_for(connection.ask(b"GET\n"), 10)
        finally:
            connection.close()
            await over.wait()


def test_wrk_must_have_been_answered() -> None:
    assert wrk.parse("  40 requests in 1.00s, 9KB read\nRequests/sec:   1234.50\n") == 1234.5
    with pytest.raises(LoadError, match="Non-2xx"):
        wrk.parse("  40 requests in 1.00s, 9KB read\n  Non-2xx or 3xx responses: 3\nRequests/sec:   1234.50\n")
    with pytest.raises(LoadError, match="nothing"):
        wrk.parse("  0 requests in 1.00s, 0B read\nRequests/sec:      0.00\n")


def test_imports_are_read_from_what_python_writes() -> None:
    log = "import time: self [us] | cumulative | imported package\nimport time:       125 |        250 |   celery.app\n"
    assert footprint.imported(log) == {"celery.app"}
    with pytest.raises(ValueError, match="nothing"):
        footprint.imported("")


def found(ours: float, theirs: float) -> Found:
    """A run in which Hydrant and each other have these rates, in two rounds of which the second is twice as fast."""
    samples = [
        Sample(name, number, rate * number, rate * number, 1.0 if name == "hydrant" else 0.25)
        for number in (1, 2)
        for name, rate in (("direct", 1e6), ("hydrant", ours), ("litellm", theirs), ("sglang-router", theirs))
    ]
    start = Footprint([0.5], [0.6], [50_000_000], 500, [])
    return Found(samples, Held(2000, 100_000_000, 2.0, 3.0, 1.0, 1.0), Open(5000, 0, 10**7, 10**7 + 10**8, None), start)


def test_targets_come_from_the_rounds_own_ratios() -> None:
    judged = {target.name: target for target in targets(found(4000, 100))}
    assert judged["JSON requests/s, Hydrant / LiteLLM proxy"].value == 40
    assert judged["added time to first token, one client, median"].value == 0.75
    assert judged["5,000 open streams: memory of each"].value == pytest.approx(20)
    assert judged["another model's p99 meanwhile / unloaded"].value == 1.5
    missed = [name for name, target in judged.items() if not target.met]
    assert missed == ["streamed tokens/s, Hydrant / LiteLLM proxy"]


def test_a_forbidden_import_is_a_missed_target() -> None:
    run = found(4000, 100)
    with_orm = Found(run.samples, run.held, run.streams, Footprint([0.5], [0.6], [1], 500, ["sqlalchemy"]))
    assert not targets(with_orm)[-1].met
