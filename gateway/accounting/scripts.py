"""Lua scripts in Redis, called over one connection: a call is a write and a future, and no task.

redis-py opens the connection, with whatever its URL asks for, and hands it over: what its client does for each command
is most of what a script would cost the gateway. Calls of the same moment leave in one write, and each has an EVALSHA of
its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.asyncio import Connection, Redis
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    InvalidResponse,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

# So many calls are under way at a time: Redis runs what has come in one go, and other gateways are to have their turn.
UNDER_WAY = 16
# Of a call, from the moment it is sent, and of opening a connection: a silent Redis is an unreachable Redis.
CALL_SECONDS = 2.0

_ERRORS: dict[str, type[RedisError]] = {
    "NOSCRIPT": NoScriptError,
    "LOADING": BusyLoadingError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
}

Argument = str | int | bytes


class Answer(asyncio.Future[Any]):
    """What a script returns, or RedisError. Who is cancelled while it waits learns of that when the answer has come:
    until then nobody knows what the script has done, and what undoes it must come after it."""

    def cancel(self, msg: Any | None = None) -> bool:
        """asyncio's: not before its end."""
        return False


@dataclass(slots=True)
class _Call:
    """`script` None: it loads one, and nobody waits for it."""

    packed: bytes
    script: Script | None
    answer: Answer
    sent_at: float = 0.0
    repeated: bool = False


class Scripts:
    """Calls scripts on the server of a Redis client. A lost connection is opened again by the next call."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: deque[_Call] = deque()
        self._line: _Line | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def register(self, text: str) -> Script:
        """A script to be called; Redis is given it when it does not know it."""
        return Script(self, text)

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Answer:
        """What the script returns, or RedisError; then it is unknown whether it has run."""
        return self.send(script, _pack("EVALSHA", script.sha, len(keys), *keys, *args))

    def send(self, script: Script, packed: bytes, answer: Answer | None = None) -> Answer:
        """The same of a call that is packed already; it may have the future that gets its answer."""
        line = self._line
        if answer is None:
            # Asking for the running loop is a system call.
            answer = Answer(loop=asyncio.get_running_loop() if line is None else line.loop)
        self._waiting.append(_Call(packed, script, answer))
        if line is not None:
            self._send()
        elif self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return answer

    async def aclose(self) -> None:
        """Ends the connection; who waits for an answer gets RedisError."""
        stopped = ConnectionError("the gateway stops")
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
            self._opening = None
        if self._line is not None:
            self._line.end(stopped)
        self._fail(stopped)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _open(self) -> None:
        failure: RedisError = ConnectionError("no connection to Redis could be opened")
        try:
            connection: Connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
            async with asyncio.timeout(CALL_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]
            self._line = _Line(connection, self._send, self._ended)
            self._send()
        except TimeoutError:
            failure = _late()
        except (RedisError, OSError) as error:
            failure = error if isinstance(error, RedisError) else ConnectionError(str(error))
        finally:
            self._opening = None
            if self._line is None:
                self._fail(failure)

    def _send(self) -> None:
        while self._waiting and self._line is not None and len(self._line.under_way) < UNDER_WAY:
            self._line.send(self._waiting.popleft())

    def _ended(self, connection: Connection, error: RedisError) -> None:
        self._line = None
        self._fail(error)
        closing = asyncio.create_task(connection.disconnect(nowait=True))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _fail(self, error: RedisError) -> None:
        # Those that wait would each wait as long again: they are told now, and may try again.
        waiting, self._waiting = self._waiting, deque()
        _tell(waiting, error)


class _Line(asyncio.Protocol):
    """An open connection. `on_room`: a call may be sent again; `on_end`: it is of no use any more."""

    def __init__(
        self, connection: Connection, on_room: Callable[[], None], on_end: Callable[[Connection, RedisError], None]
    ) -> None:
        self.under_way: deque[_Call] = deque()
        self._connection = connection
        self._on_room = on_room
        self._on_end = on_end
        self.loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._open = True
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_error)
        # redis-py has no way to hand a connection over; it keeps what it has learnt to close it by.
        self._transport = connection._writer.transport  # type: ignore[union-attr]
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)

    def send(self, call: _Call) -> None:
        """Sends a call; what is sent in one turn of the event loop leaves in one write."""
        call.sent_at = self.loop.time()
        self.under_way.append(call)
        self._transport.write(call.packed)
        if self._timer is None:
            self._timer = self.loop.call_later(CALL_SECONDS, self._tick)

    def end(self, error: RedisError) -> None:
        """Closes it; whoever waits for an answer gets the error."""
        if not self._open:
            return
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        _tell(self.under_way, error)
        self._on_end(self._connection, error)

    def data_received(self, data: bytes) -> None:
        """asyncio's: answers, in the order of the calls."""
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False and self._open:
                if not isinstance(answer, hiredis.PushNotification):  # a server's own news are nobody's answer
                    self._answered(self.under_way.popleft(), answer)
        except (RedisError, IndexError) as error:
            self.end(ConnectionError(f"not what Redis answers: {error}"))
        if self._open:
            self._on_room()

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio's."""
        self._before.connection_lost(error)
        self.end(ConnectionError("Redis has closed the connection"))

    def pause_writing(self) -> None:
        """asyncio's: what is under way is bounded."""

    def resume_writing(self) -> None:
        """asyncio's."""

    def _answered(self, call: _Call, answer: Any) -> None:
        if isinstance(answer, NoScriptError) and call.script is not None and not call.repeated:
            # It has not run.
            self.send(_Call(_pack("SCRIPT", "LOAD", call.script.text), None, Answer(loop=self.loop)))
            call.repeated = True
            self.send(call)
        elif call.script is None:
            return
        elif isinstance(answer, RedisError):
            call.answer.set_exception(answer)
        else:
            call.answer.set_result(answer)

    def _tick(self) -> None:
        self._timer = None
        if not self.under_way:
            return
        left_s = self.under_way[0].sent_at + CALL_SECONDS - self.loop.time()
        if left_s <= 0:
            self.end(_late())
        else:
            self._timer = self.loop.call_later(left_s, self._tick)


class Script:
    """One script; calling it runs it."""

    def __init__(self, scripts: Scripts, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._scripts = scripts

    def __call__(self, keys: Sequence[str], args: Sequence[Argument]) -> Answer:
        """What the script returns, or RedisError; then it is unknown whether it has run."""
        return self._scripts.call(self, keys, args)

    def prepare(self, keys: Sequence[str], args: Sequence[Argument]) -> Prepared:
        """The script with its keys, and with the arguments that each of its calls begins with."""
        return Prepared(self._scripts, self, keys, args)


class Prepared:
    """A script to be called with the rest of its arguments: packing words is most of what a call takes."""

    def __init__(self, scripts: Scripts, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> None:
        self._scripts, self._script = scripts, script
        self._count = 3 + len(keys) + len(args)
        self._words = _without_count(_pack("EVALSHA", script.sha, len(keys), *keys, *args))

    def __call__(self, *rest: Argument, answer: Answer | None = None) -> Answer:
        """What the script returns, or RedisError; then it is unknown whether it has run. See `Scripts.send`."""
        packed = b"*%d\r\n%b%b" % (self._count + len(rest), self._words, _without_count(_pack(*rest)))
        return self._scripts.send(self._script, packed, answer)


def _without_count(packed: bytes) -> bytes:
    """The words of a packed command: its first line is their number."""
    return packed[packed.index(b"\n") + 1 :]


def _pack(*words: Argument) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub knows tuples of one element only
    return packed


def _error(text: str) -> RedisError:
    return _ERRORS.get(text.partition(" ")[0], ResponseError)(text)


def _late() -> RedisError:
    return RedisTimeoutError(f"Redis has not answered within {CALL_SECONDS:g} s")


def _tell(calls: Sequence[_Call], error: RedisError) -> None:
    for call in calls:
        if call.script is not None:
            call.answer.set_exception(error)
