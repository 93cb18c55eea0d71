"""Requests with an `Idempotency-Key`: the same key from the same tenant joins the request in flight.

A joiner gets the same answer from its beginning and costs nothing. The work goes on while anybody waits for it, and
some seconds longer: a client that has given up and asks again finds it. When it has ended the key is forgotten; a
request that comes later runs, and is billed, anew. Across gateway processes the admission script keeps the key (a
`Lock`): there nobody can join, and the second one is told to ask again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from gateway import rediskeys
from gateway.body.parsing import Endpoint
from gateway.clients.reply import Client, ClientGone, Message, Reply, Scope, header_of
from gateway.errors import ApiError, idempotency_key_reused, internal, invalid_request
from gateway.ids import new_id

log = logging.getLogger(__name__)

# How long the work goes on when its last client has left.
LINGER_SECONDS = 5.0
MAX_KEY_LENGTH = 255

Lock = tuple[str, str]
"""A Redis key, and the value that says whose it is: the body's digest and a number."""
Run = Callable[[Client, Reply, Lock | None], Awaitable[None]]


class _Answer:
    """One request's answer, kept from its beginning: the work sends into it, as its client, and any number of clients
    follow it. `gone`: all of them have been for `LINGER_SECONDS`."""

    is_full = False

    def __init__(self, fingerprint: str, limit_bytes: int) -> None:
        self.fingerprint = fingerprint
        self.is_open = True
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._messages: list[Message] = []
        self._ended = False
        self._more = asyncio.Event()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._followers = 0
        self._leaving: asyncio.TimerHandle | None = None

    async def send(self, message: Message) -> None:
        """Takes what the work says. Raises `ClientGone` when it is more than a whole answer may be."""
        self._size_bytes += len(message.get("body", b""))
        if self._size_bytes > self._limit_bytes:
            raise ClientGone
        self._messages.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.is_open = False
        self._wake()

    def end(self) -> None:
        """The work is over."""
        self.is_open, self._ended = False, True
        self._wake()

    async def follow(self, client: Client, reply: Reply) -> None:
        """Gives one client the whole answer. Raises `ClientGone` when it leaves, or when the answer broke off."""
        self._followers += 1
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        try:
            await self._pass_on(reply, client.gone)
        finally:
            self._followers -= 1
            # One that came while the work was being ended leaves nobody new behind.
            if not (self._followers or self._ended or self.gone.done()):
                self._leaving = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.gone.set_result, None)

    async def _pass_on(self, reply: Reply, gone: asyncio.Future[None]) -> None:
        position = 0
        while not reply.ended:
            if position < len(self._messages):
                await reply.replay(self._messages[position])
                position += 1
                continue
            if self._ended:
                raise ClientGone
            waiting = asyncio.ensure_future(self._more.wait())
            either: set[asyncio.Future[Any]] = {waiting, gone}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if gone.done():
                raise ClientGone

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()


class Idempotency:
    """The requests in flight that have a key, of this process."""

    def __init__(self, stall_s: float, limit_bytes: int) -> None:
        self._stall_s = stall_s
        self._limit_bytes = limit_bytes
        self._answers: dict[str, _Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(
        self, key: str, tenant_id: str, endpoint: Endpoint, body: bytes, client: Client, reply: Reply, run: Run
    ) -> None:
        """Answers by the work that is in flight for this key, or by beginning it with `run`.

        Raises `ApiError` 422 when the key is in use for another body, and `ClientGone`.
        """
        name = rediskeys.idempotency(tenant_id, hashlib.sha256(key.encode()).hexdigest())
        fingerprint = hashlib.sha256(endpoint.path.encode() + b"\0" + body).hexdigest()
        answer = self._answers.get(name)
        if answer is not None and answer.is_open:
            if answer.fingerprint != fingerprint:
                raise idempotency_key_reused()
        else:
            answer = self._answers[name] = _Answer(fingerprint, self._limit_bytes)
            shared = Reply(answer, reply.request_id, self._stall_s, anthropic=endpoint is Endpoint.MESSAGES)
            task = asyncio.create_task(self._work(name, answer, shared, run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await answer.follow(client, reply)

    async def stop(self, seconds: float) -> None:
        """Ends what is still in flight; each settles its attempt."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _work(self, name: str, answer: _Answer, reply: Reply, run: Run) -> None:
        try:
            await run(answer, reply, (name, f"{answer.fingerprint}:{new_id('idm_')}"))
        except ClientGone:
            log.info("request %s ended with nobody waiting for it", reply.request_id)
        except ApiError as error:
            await reply.fail(error)
        except Exception:
            log.exception("request %s failed", reply.request_id)
            await reply.fail(internal(reply.request_id))
        finally:
            answer.end()
            if self._answers.get(name) is answer:
                del self._answers[name]


def sent_key(scope: Scope) -> str | None:
    """The request's `Idempotency-Key`, if it has one. Raises `ApiError` 400 when it is empty, too long or not ASCII."""
    value = header_of(scope, b"idempotency-key")
    if value is None:
        return None
    if not 0 < len(value) <= MAX_KEY_LENGTH or not all(32 < byte < 127 for byte in value):
        raise invalid_request(
            f"`Idempotency-Key` must be 1 to {MAX_KEY_LENGTH} printable ASCII characters without spaces.",
            "Idempotency-Key",
        )
    return value.decode()
