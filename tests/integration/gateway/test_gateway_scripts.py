"""Scripts called over one connection: each caller gets its own answer or error, whatever becomes of the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import redis.asyncio
from redis.exceptions import RedisError, ResponseError, TimeoutError
from support.redis_server import RedisServer

from gateway.accounting.scripts import UNDER_WAY, Scripts


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of a Redis of the test's own."""
    connected = redis.asyncio.Redis.from_url(redis_server.url, socket_timeout=2)
    yield connected
    await connected.aclose()


@pytest.fixture
async def scripts(client: redis.asyncio.Redis) -> AsyncIterator[Scripts]:
    """Scripts on that Redis."""
    async with aclosing(Scripts(client)) as opened:
        yield opened


async def test_each_of_many_callers_gets_its_own_answer(scripts: Scripts) -> None:
    echo = scripts.register("return {KEYS[1], ARGV[1]}")
    await echo(["first"], [0])
    answers = await asyncio.gather(*(echo([f"key-{n}"], [n]) for n in range(3 * UNDER_WAY + 1)))
    assert answers == [[f"key-{n}".encode(), str(n).encode()] for n in range(3 * UNDER_WAY + 1)]


async def test_a_script_that_redis_has_forgotten_is_given_to_it_again(
    client: redis.asyncio.Redis, scripts: Scripts
) -> None:
    count, echo = scripts.register("return redis.call('INCR', KEYS[1])"), scripts.register("return ARGV[1]")
    assert await echo([], ["a"]) == b"a"
    assert await count(["n"], []) == 1
    await client.script_flush()
    assert await echo([], ["b"]) == b"b"
    # One of the two is known now, the other is not.
    assert await asyncio.gather(count(["n"], []), echo([], ["c"]), count(["n"], [])) == [2, b"c", 3]


async def test_what_is_packed_once_is_called_with_what_differs(scripts: Scripts) -> None:
    echo = scripts.register("return {KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3] or '-'}")
    prepared = echo.prepare(["one", "two"], [7])
    answers = await asyncio.gather(prepared(b"\r\n*3"), prepared("a", 2), echo(["x", "y"], [1, 2]))
    assert answers == [[b"one", b"two", b"7", b"\r\n*3", b"-"], [b"one", b"two", b"7", b"a", b"2"],
                       [b"x", b"y", b"1", b"2", b"-"]]  # fmt: skip


async def test_one_script_that_fails_fails_alone(scripts: Scripts) -> None:
    good, bad = scripts.register("return 1"), scripts.register("return redis.call('NO SUCH')")
    answers = await asyncio.gather(good([], []), bad([], []), good([], []), return_exceptions=True)
    assert answers[0] == answers[2] == 1
    assert isinstance(answers[1], ResponseError)


async def test_a_caller_that_leaves_takes_nobody_with_it(scripts: Scripts) -> None:
    add = scripts.register("return redis.call('INCR', KEYS[1])")
    await add(["n"], [])
    finished = []

    async def call(number: int) -> int:
        try:
            return int(await add(["n"], []))
        finally:
            finished.append(number)

    callers = [asyncio.create_task(call(number)) for number in range(10)]
    await asyncio.sleep(0)
    callers[3].cancel()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[3], asyncio.CancelledError)
    assert all(isinstance(answer, int) for number, answer in enumerate(answers) if number != 3)
    assert finished == list(range(10))  # it learns of its end in its turn: then the script has run


async def test_without_redis_every_caller_is_told_and_later_ones_are_served(
    scripts: Scripts, redis_server: RedisServer
) -> None:
    echo = scripts.register("return ARGV[1]")
    assert await echo([], ["a"]) == b"a"
    redis_server.kill()
    answers = await asyncio.gather(*(echo([], [n]) for n in range(2 * UNDER_WAY)), return_exceptions=True)
    assert all(isinstance(answer, RedisError) for answer in answers)
    redis_server.start()
    assert await echo([], ["b"]) == b"b"


async def test_calls_that_come_while_others_end_are_carried(scripts: Scripts) -> None:
    echo = scripts.register("return ARGV[1]")

    async def one_after_the_other(times: int) -> None:
        for number in range(times):
            assert await echo([], [number]) == str(number).encode()

    async with asyncio.timeout(20):
        await asyncio.gather(*(one_after_the_other(200) for _ in range(8)))


async def test_a_silent_redis_is_an_unreachable_one(
    client: redis.asyncio.Redis, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.accounting.scripts.CALL_SECONDS", 0.2)
    echo = scripts.register("return ARGV[1]")
    assert await echo([], ["a"]) == b"a"
    await client.client_pause(1000)  # for every client
    answers = await asyncio.gather(*(echo([], [n]) for n in range(2 * UNDER_WAY)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {TimeoutError}
    with pytest.raises(TimeoutError):  # nobody speaks on a new connection
        await echo([], ["b"])
    monkeypatch.undo()
    assert await echo([], ["c"]) == b"c"


async def test_scripts_that_are_closed_leave_nobody_waiting(scripts: Scripts) -> None:
    slow = scripts.register("return ARGV[1]")
    waiting = [slow([], [0]), slow([], [1])]
    await scripts.aclose()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, RedisError) for answer in answers)


async def test_a_connection_that_fails_in_an_unforeseen_way_leaves_nobody_waiting(
    client: redis.asyncio.Redis, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("no more files")

    monkeypatch.setattr(client.connection_pool, "make_connection", fail)
    async with asyncio.timeout(10):
        with pytest.raises(RedisError):
            await scripts.register("return 1")([], [])
    monkeypatch.undo()
    assert await scripts.register("return 1")([], []) == 1
