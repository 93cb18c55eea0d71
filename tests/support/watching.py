"""Readers that have been looking for ever, or since a moment that the test names (tasks/watch.py)."""

from __future__ import annotations

from redis import Redis

from registry.ids import now_ms
from tasks.watch import CONTROLLER, LEDGER, watch_key

AHEAD_MS = 600_000
"""The last look is dated ahead, so that a slow machine makes no gap."""


def watched(redis: Redis, *, since_ms: int = 0, last_ms: int | None = None) -> None:
    """Every reader has been looking since `since_ms`, the last time at `last_ms` (no gap, unless it is given)."""
    for reader in (CONTROLLER, LEDGER):
        last = now_ms() + AHEAD_MS if last_ms is None else last_ms
        redis.hset(watch_key(reader), mapping={"since": since_ms, "last": last})
