"""Every attempt ends in exactly one way: a final event in the usage stream, or a release. Neither can be lost.

Ending an attempt never waits for Redis: the event goes to the spool first, then to Redis, and what Redis does not take
at once a publisher task repeats until it does. A caller that wants slots and reservation to be free before it answers
may wait for that: a bounded time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from functools import partial

from redis.exceptions import RedisError

from gateway import metrics
from gateway.accounting.admission import Admission, Ahead, Persistence
from gateway.accounting.allowance import Allowance
from gateway.accounting.attempts import Attempt, FinalEvent
from gateway.accounting.spool import Spool
from gateway.celery_message import CeleryHints
from gateway.draining import until_none
from gateway.failpoints import reach

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
PUBLISH_BATCH = 64
# So many spooled events are asked after at a time, where Redis has no AOF.
CONFIRM_BATCH = 1000
# The ledger is told of new events this often at most; its own tick finds the rest within a second.
HINT_SECONDS = 0.2

_Ending = FinalEvent | Attempt | Ahead


class Metering:
    """Open attempts, and the way from their end to the ledger."""

    def __init__(self, admission: Admission, spool: Spool, hints: CeleryHints, allowance: Allowance) -> None:
        self._admission = admission
        self._allowance = allowance
        self._spool = spool
        self._hints = hints
        self._open: dict[str, Attempt] = {}
        # Endings that go to Redis for the first time, and those that it has not taken.
        self._under_way = 0
        self._queue: deque[_Ending] = deque()
        self._work = asyncio.Event()
        self._work.set()
        self._hinted_at = 0.0
        self._to_hint = False
        # Published to a Redis that could still forget them.
        self._unsettled: dict[str, FinalEvent] = {}
        self._server: Persistence | None = None
        self._server_is_sure = False

    @property
    def unpublished(self) -> int:
        """Events and releases that Redis has not taken yet."""
        return len(self._queue) + self._under_way

    def open(self, attempt: Attempt) -> None:
        """Starts to checkpoint an admitted attempt."""
        self._open[attempt.attempt_id] = attempt

    def open_without_redis(self, attempt: Attempt) -> bool:
        """Starts an attempt of which Redis does not know, if the key's allowance covers it."""
        if not self._allowance.take(attempt):
            return False
        self.open(attempt)
        return True

    def finish(self, attempt: Attempt, outcome: str) -> asyncio.Future[None]:
        """Ends a dispatched attempt: spooled when this returns. The future is done when it holds nothing in Redis, or
        Redis has not taken it at once: within `gateway.accounting.scripts.CALL_SECONDS`."""
        self._open.pop(attempt.attempt_id, None)
        model = attempt.account.model
        metrics.count(metrics.ATTEMPTS(model, outcome))
        metrics.count(metrics.TOKENS(model, "prompt"), attempt.usage.prompt_tokens)
        metrics.count(metrics.TOKENS(model, "completion"), attempt.usage.completion_tokens)
        event = attempt.final(outcome)
        try:
            self._spool.append(event)
        except OSError as error:
            # The event is still published from memory; only a death of this process before that would lose it.
            log.error("the usage spool cannot be written (%s): free disk space under $HYDRANT_HOME", error)
        reach("gateway.spooled")
        ending = self._enqueue(event)
        if not self._allowance.holds(attempt.attempt_id):
            return ending
        self._allowance.ended(attempt.attempt_id, event.reserved_nusd)
        return _done()

    def release(self, attempt: Attempt) -> asyncio.Future[None]:
        """Ends an attempt that cost nothing: whatever it held is given back."""
        self._open.pop(attempt.attempt_id, None)
        if self._allowance.holds(attempt.attempt_id):
            self._allowance.published(attempt.attempt_id)
            return _done()
        return self._enqueue(attempt)

    def give_back(self, ahead: Ahead) -> None:
        """Ends attempts that were admitted ahead, and that no request has taken."""
        self._enqueue(ahead)

    async def replace(self, attempt: Attempt) -> Attempt | None:
        """Ends a failed attempt and opens its successor; None when it cannot be carried on.

        Raises RedisError; then the attempt is still the caller's to end. So it is when this is cancelled.
        """
        successor = attempt.successor()
        if self._allowance.holds(attempt.attempt_id):
            self._allowance.pass_on(attempt, successor)
            return self._succeed(attempt, successor)
        try:
            moved = await self._admission.replace(attempt, successor)
        except (RedisError, asyncio.CancelledError):
            # Redis may have done it, and only its answer or who waits for it was lost: then the successor holds it all.
            self.release(successor)
            raise
        return self._succeed(attempt, successor) if moved else None

    def _succeed(self, attempt: Attempt, successor: Attempt) -> Attempt:
        attempt.lock = None  # the successor's now
        attempt.reserved_nusd = 0
        attempt.counted_tokens = 0
        self.finish(attempt, "upstream_error")
        self.open(successor)
        return successor

    async def checkpoint(self) -> None:
        """Writes all open attempts' running usage. Raises RedisError."""
        await self._admission.checkpoint(list(self._open.values()))

    async def confirm(self) -> None:
        """Forgets spooled events that are safe, and publishes again those that another server had taken.

        With AOF Redis keeps an event itself. Without it, an event is safe when the ledger has closed its attempt; on
        another server than before, though, attempts are missing because the memory is lost. Raises RedisError.
        """
        asked = dict(itertools.islice(self._unsettled.items(), CONFIRM_BATCH))
        before, self._server = self._server, await self._admission.look(list(asked))
        if before is not None and before.run_id != self._server.run_id:
            again, self._unsettled = self._unsettled, {}
            for event in again.values():
                self._enqueue(event)
            return
        for attempt_id in asked if self._server.has_aof else self._server.settled:
            if self._unsettled.pop(attempt_id, None) is not None:
                self._spool.published(attempt_id)
        self._spool.tidy()

    def adopt(self) -> None:
        """Queues what earlier processes left in their spools."""
        self._queue.extend(self._spool.adopt())

    async def publish_forever(self) -> None:
        """Carries to Redis, in order, what it has not taken at once, repeating what fails; and tells the ledger."""
        while True:
            await self._work.wait()
            try:
                await self._publish_batch()
            except RedisError as error:
                self._server_is_sure = False
                log.warning("Redis does not take endings (%s); %d wait", type(error).__name__, len(self._queue))
                await asyncio.sleep(RETRY_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Waits until nothing is unpublished, `seconds` at most; the spool keeps the rest."""
        await until_none(lambda: self.unpublished, seconds)

    def _enqueue(self, ending: _Ending) -> asyncio.Future[None]:
        if self._queue or not self._server_is_sure:
            self._queue.append(ending)
            self._work.set()
            return _done()
        self._under_way += 1
        answer = self._send(ending)
        done: asyncio.Future[None] = answer.get_loop().create_future()
        answer.add_done_callback(partial(self._answered, ending, done))
        return done

    def _send(self, ending: _Ending, *, alone: bool = False) -> asyncio.Future[None]:
        if isinstance(ending, FinalEvent):
            return self._admission.finish(ending, alone=alone)
        if isinstance(ending, Ahead):
            return self._admission.give_back(ending)
        return self._admission.release(ending)

    def _answered(self, ending: _Ending, done: asyncio.Future[None], answer: asyncio.Future[None]) -> None:
        self._under_way -= 1
        if answer.exception() is not None:
            self._server_is_sure = False
            self._queue.append(ending)
            self._work.set()
        else:
            self._taken(ending)
        if not done.done():
            done.set_result(None)

    async def _publish_batch(self) -> None:
        if not self._server_is_sure:
            # Before, so that what the new server takes now is not taken for what the old one has forgotten.
            await self.confirm()
            self._server_is_sure = True
        batch = [self._queue[position] for position in range(min(PUBLISH_BATCH, len(self._queue)))]
        # Each by itself: one that Redis will never take must not keep the others.
        results = await asyncio.gather(*(self._send(ending, alone=True) for ending in batch), return_exceptions=True)
        failure: BaseException | None = None
        for ending, result in zip(batch, results, strict=True):
            self._queue.popleft()
            if isinstance(result, BaseException):
                failure = result
                self._queue.append(ending)
            else:
                self._taken(ending)
        if not self._queue:
            self._work.clear()
        if self._to_hint:
            self._to_hint = False
            await self._hints.send("ledger", "ledger.drain", [])
        if failure is not None:
            raise failure

    def _taken(self, ending: _Ending) -> None:
        if isinstance(ending, Ahead):
            return
        self._allowance.published(ending.attempt_id)
        if isinstance(ending, FinalEvent):
            reach("gateway.published")
            self._published(ending)
            if time.monotonic() - self._hinted_at >= HINT_SECONDS:
                self._hinted_at = time.monotonic()
                self._to_hint = True
                self._work.set()

    def _published(self, event: FinalEvent) -> None:
        assert self._server is not None
        if self._server.has_aof:
            self._spool.published(event.attempt_id)
        else:
            self._unsettled[event.attempt_id] = event


def _done() -> asyncio.Future[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
