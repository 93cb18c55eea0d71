"""Tells the controller what is wanted and that this gateway lives (docs/interfaces.md, sections 1 and 5)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway import metrics, rediskeys
from gateway.accounting.metering import Metering
from gateway.celery_message import CeleryHints
from gateway.clock import now_ms
from gateway.readmodel.routes import RouteTable
from gateway.waiting.hold import Hold

log = logging.getLogger(__name__)

PULSE_SECONDS = 1.0
# A gateway's last word on a model outlives it, because idle time is counted from the last request; for this long.
REMEMBER_MS = 24 * 3600 * 1000


class Demand:
    """Writes activity, heartbeat and checkpoints once a second, and a model's first need at once."""

    def __init__(
        self, redis: Redis, gateway_id: str, routes: RouteTable, hold: Hold, metering: Metering, hints: CeleryHints
    ) -> None:
        self._redis = redis
        self._gateway_id = gateway_id
        self._routes = routes
        self._hold = hold
        self._metering = metering
        self._hints = hints
        self._last_request_ms: dict[str, int] = {}
        self._touched: set[str] = set()
        # Models that are to start although nobody waits in line: since when, of which class, until when (monotonic).
        self._wanted: dict[str, tuple[int, str, float]] = {}
        self._announcements: set[asyncio.Task[None]] = set()

    def touched(self, model: str) -> None:
        """A request for this model arrived, or ended."""
        self._last_request_ms[model] = now_ms()
        self._touched.add(model)

    def first_waiter(self, model: str) -> None:
        """Somebody began to wait for this model while nobody else did: tell the controller now, in the background."""
        self._in_background(self._announce(model))

    def want(self, model: str, service_class: str, until: float) -> None:
        """Has the model start for a request that does not wait for it: it counts as one that waits until `until`
        (monotonic), or until the model serves."""
        since_ms, first_class, before = self._wanted.get(model, (now_ms(), service_class, 0.0))
        self._wanted[model] = (since_ms, first_class, max(before, until))
        if not before:
            self._in_background(self._announce(model))

    def last_waiter_left(self, model: str) -> None:
        """Nobody waits for this model any more: say so now, in the background.

        Until the next pulse it would look wanted, and the controller might start it for nobody.
        """
        self._touched.add(model)
        self._in_background(self._tell(model))

    async def pulse_forever(self) -> None:
        """Repeats the heartbeat, the activity and the checkpoints every `PULSE_SECONDS`."""
        tidied = False
        while True:
            try:
                if not tidied:
                    await self.forget_old()
                    tidied = True
                await self._beat()
                await self._metering.checkpoint()
                await self._metering.confirm()
            except RedisError as error:
                log.warning("the pulse did not reach Redis (%s)", type(error).__name__)
            metrics.flush()
            metrics.HELD.set(self._hold.count)
            metrics.UNPUBLISHED.set(self._metering.unpublished)
            await asyncio.sleep(PULSE_SECONDS)

    async def farewell(self) -> None:
        """Says for the last time what runs (nothing), and takes the heartbeat away. Raises RedisError."""
        await self._write_activity()
        await self._redis.hdel(rediskeys.GATEWAYS, self._gateway_id)

    async def forget_old(self) -> None:
        """Drops what gateways said that have been gone for `REMEMBER_MS`. Raises RedisError."""
        names: set[Any] = await self._redis.smembers(rediskeys.ACTIVITY_MODELS)
        for name in names:
            key = rediskeys.activity(name.decode())
            for gateway_id, entry in (await self._redis.hgetall(key)).items():
                if now_ms() - _said_at_ms(entry) > REMEMBER_MS:
                    await self._redis.hdel(key, gateway_id)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._announcements.add(task)
        task.add_done_callback(self._announcements.discard)

    async def _announce(self, model: str) -> None:
        try:
            await self._write_activity()
            await self._hints.send("control", "control.scale", [model])
        except RedisError as error:
            # The next pulse writes the same demand, and beat makes the controller read it.
            log.warning("demand for %s did not reach Redis yet (%s)", model, type(error).__name__)

    async def _tell(self, model: str) -> None:
        try:
            await self._write_activity()
        except RedisError as error:
            # The next pulse says the same.
            log.warning("what waits for %s did not reach Redis yet (%s)", model, type(error).__name__)

    async def _beat(self) -> None:
        """Says which routes it has seen only after what runs by them: a group that no gateway names may be stopped."""
        seen = self._routes.version
        await self._write_activity()
        beat = orjson.dumps({"at_ms": now_ms(), "routes_version": seen})
        await self._redis.hset(rediskeys.GATEWAYS, self._gateway_id, beat)

    async def _write_activity(self) -> None:
        """Writes every model that has requests, and once more each that has just lost its last one."""
        for model, (_, _, until) in list(self._wanted.items()):
            if self._routes.serves(model) or time.monotonic() >= until:
                del self._wanted[model]
                self._touched.add(model)
        due = self._hold.models() | self._wanted.keys() | self._routes.models_in_flight() | self._touched
        if not due:
            return
        touched, self._touched = self._touched, set()
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for model in due:
                    pipe.hset(rediskeys.activity(model), self._gateway_id, self._activity(model))
                pipe.sadd(rediskeys.ACTIVITY_MODELS, *due)
                await pipe.execute()
        except RedisError:
            self._touched |= touched
            raise

    def _activity(self, model: str) -> bytes:
        waiting, oldest = self._hold.waiting(model)
        if model in self._wanted:
            since_ms, service_class, _ = self._wanted[model]
            waiting += 1
            oldest[service_class] = min(since_ms, oldest.get(service_class, since_ms))
        groups = self._routes.running(model)
        return orjson.dumps(
            {
                "at_ms": now_ms(),
                "waiting": waiting,
                "oldest_at_ms": min(oldest.values(), default=None),
                "oldest_by_class": oldest,
                "running": sum(groups.values()),
                "last_request_at_ms": self._last_request_ms.get(model, 0),
                "groups": groups,
                "routes_version": self._routes.version,
                "traceparent": self._hold.traceparent(model),
            }
        )


def _said_at_ms(entry: bytes | str) -> int:
    """When an activity entry was written; 0 for one that cannot be read."""
    try:
        return int(orjson.loads(entry)["at_ms"])
    except (ValueError, KeyError, TypeError):
        return 0
