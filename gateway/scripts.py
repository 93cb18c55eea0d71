"""Lua scripts in Redis, called in batches: what waits at the same moment crosses in one write and one read.

Each call still is an EVALSHA of its own, and a single one waits for nobody. Under load, what a client library does for
a write and a read is most of what a call costs the gateway, and a batch pays for it once: it has one time limit, where
the library makes a task of every write and a timer for every answer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hiredis import pack_command
from redis.asyncio import Connection, Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

# So many batches are under way at a time: the second is sent while the first one's answers come.
FLIGHTS = 2
# What one batch carries at most: Redis runs it in one go, and other gateways are to have their turn.
BATCH = 8
# Of one batch, write and answers: a silent Redis is an unreachable Redis.
BATCH_SECONDS = 2.0

Argument = str | int | bytes


@dataclass(frozen=True, slots=True)
class _Call:
    script: Script
    arguments: tuple[Argument, ...]
    key_count: int
    answer: asyncio.Future[Any]


class Scripts:
    """Calls scripts by one Redis client. Each batch has a time limit of its own; the client's commands need none."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: deque[_Call] = deque()
        self._flying = 0
        self._flights: set[asyncio.Task[None]] = set()

    def register(self, text: str) -> Script:
        """A script to be called; Redis is given it when it does not know it."""
        return Script(self, text)

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """What the script returns, or RedisError; then it is unknown whether it has run."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(script, (*keys, *args), len(keys), answer))
        if self._flying < FLIGHTS:
            self._flying += 1
            flight = asyncio.create_task(self._fly())
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)
        return answer

    async def _fly(self) -> None:
        try:
            while self._waiting:
                await self._carry([self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))])
        finally:
            # Not when the task's callbacks run: a call that comes in between would find nobody to carry it.
            self._flying -= 1

    async def _carry(self, batch: Sequence[_Call]) -> None:
        try:
            await self._run(batch)
        except RedisError as error:
            # Those that wait would each wait as long again: they are told now, and may try again.
            for call in (*batch, *self._waiting):
                if not call.answer.done():
                    call.answer.set_exception(error)
            self._waiting.clear()
        finally:
            # Whatever has ended this, nobody waits for ever.
            for call in batch:
                call.answer.cancel()

    async def _run(self, batch: Sequence[_Call]) -> None:
        answers = await self._send(batch)
        unknown = [call for call, answer in zip(batch, answers, strict=True) if isinstance(answer, NoScriptError)]
        if unknown:
            # These have not run.
            for script in {call.script for call in unknown}:
                await self._redis.script_load(script.text)
            again = dict(zip(map(id, unknown), await self._send(unknown), strict=True))
            answers = [again.get(id(call), answer) for call, answer in zip(batch, answers, strict=True)]
        for call, answer in zip(batch, answers, strict=True):
            if call.answer.done():
                continue  # who called has been cancelled
            if isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

    async def _send(self, batch: Sequence[_Call]) -> list[Any]:
        # Its stub knows tuples of one element only.
        packed = [
            pack_command(("EVALSHA", call.script.sha, call.key_count, *call.arguments))  # type: ignore[arg-type]
            for call in batch
        ]
        pool = self._redis.connection_pool
        connection: Connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            answers: list[Any] = await connection.retry.call_with_retry(
                lambda: _exchange(connection, packed), lambda _: connection.disconnect()
            )
            return answers
        finally:
            await pool.release(connection)


async def _exchange(connection: Connection, packed: list[bytes]) -> list[Any]:
    """What each command returns; one that Redis refuses, its error. Whatever else goes wrong ends the connection."""
    try:
        async with asyncio.timeout(BATCH_SECONDS):
            await connection.send_packed_command(packed, check_health=False)
            return [await _read(connection) for _ in packed]
    except TimeoutError:
        raise RedisTimeoutError(f"Redis has not answered within {BATCH_SECONDS:g} s") from None


async def _read(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


class Script:
    """One script; calling it runs it."""

    def __init__(self, scripts: Scripts, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._scripts = scripts

    def __call__(self, keys: Sequence[str], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """What the script returns, or RedisError; then it is unknown whether it has run."""
        return self._scripts.call(self, keys, args)
