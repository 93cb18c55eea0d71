"""Follows what the registry and the controller publish: the snapshot, the routes and the cold starts.

Pub/sub drops messages while a connection is down, so everything is read after subscribing and slowly besides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway import rediskeys
from gateway.readmodel.routes import Route, RouteTable, parse_cold_start, parse_routes
from gateway.readmodel.snapshot import Snapshot, parse_snapshot

log = logging.getLogger(__name__)

REFRESH_SECONDS = 2.0
RECONNECT_SECONDS = 0.25
# Whatever a document of another shape makes a parser raise.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)


class ReadModel:
    """The latest snapshot and routes. What cannot be read leaves the last good state in place, and is logged."""

    def __init__(
        self, redis: Redis, routes: RouteTable, on_routes: Callable[[], None], on_snapshot: Callable[[], None]
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.connected = False
        self._redis = redis
        self._routes = routes
        self._on_routes = on_routes
        self._on_snapshot = on_snapshot
        self._snapshot_document: bytes | None = None
        self._routes_documents: object = None

    async def follow_forever(self) -> None:
        """Subscribes, reads, and reads again on every message and every `REFRESH_SECONDS`; reconnects for ever."""
        while True:
            try:
                await self._follow()
            except (RedisError, OSError) as error:
                if self.connected:
                    log.warning("lost Redis (%s); reconnecting", type(error).__name__)
                self.connected = False
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _follow(self) -> None:
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(rediskeys.SNAPSHOT_CHANGED, rediskeys.ROUTES_CHANGED)
            due = 0.0
            while True:
                if time.monotonic() >= due:
                    await self.read_snapshot()
                    await self.read_routes()
                    self.connected = True
                    due = time.monotonic() + REFRESH_SECONDS
                message = await pubsub.get_message(
                    ignore_subscribe_messages=True, timeout=max(0.001, due - time.monotonic())
                )
                if message is None:
                    continue
                if message["channel"] == rediskeys.SNAPSHOT_CHANGED.encode():
                    await self.read_snapshot()
                else:
                    await self.read_routes()

    async def read_snapshot(self) -> None:
        """Reads the snapshot, and parses it when it differs from the last one. Raises RedisError."""
        document: Any = await self._redis.get(rediskeys.SNAPSHOT)
        if document is None or document == self._snapshot_document:
            return
        self._snapshot_document = document
        try:
            self.snapshot = parse_snapshot(document)
        except _UNREADABLE as error:
            log.error("the published snapshot cannot be read (%r); the last good one stays in force", error)
            return
        self._on_snapshot()

    async def read_routes(self) -> None:
        """Reads routes and cold starts together, and wakes held requests when something changed. Raises RedisError."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.get(rediskeys.ROUTES_VERSION)
            pipe.hgetall(rediskeys.ROUTES)
            pipe.hgetall(rediskeys.COLDSTART)
            version, routes, cold_starts = documents = await pipe.execute()
        if documents == self._routes_documents:
            return
        self._routes_documents = documents
        try:
            number = int(version or 0)
        except ValueError:
            log.error("the routes have no version that can be read; the last good ones stay in force")
            return
        table: dict[str, list[Route]] = {}
        for field, document in routes.items():
            name = field.decode(errors="replace")
            try:
                table[name] = parse_routes(name, document)
            except _UNREADABLE as error:
                log.error("the routes of %s cannot be read (%r); it has none until they are", name, error)
        starts = {}
        for field, document in cold_starts.items():
            name = field.decode(errors="replace")
            try:
                starts[name] = parse_cold_start(document)
            except _UNREADABLE as error:
                log.error("the cold start of %s cannot be read (%r)", name, error)
        self._routes.replace(number, table, starts)
        self._on_routes()
