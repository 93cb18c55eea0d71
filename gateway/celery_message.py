"""Sends Celery tasks by name without importing Celery (too much to load for two small messages).

The form is Celery's task message protocol 2 in kombu's Redis transport: a JSON envelope with a base64 body, pushed to
the list that bears the queue's name. An integration test has a real Celery worker run such a message.
"""

from __future__ import annotations

import base64
import os
import socket
import uuid
from typing import Any

import orjson
from redis.asyncio import Redis

# A queue whose worker is away does not grow beyond this by our hints: one waiting hint does the work of all.
MAX_WAITING_HINTS = 16

_ORIGIN = f"{os.getpid()}@{socket.gethostname()}"


class CeleryHints:
    """Sends tasks that carry no state: a lost one is driven again by beat."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def send(self, queue: str, task: str, args: list[Any]) -> None:
        """Queues one task, unless enough wait already. Raises RedisError."""
        if await self._redis.llen(queue) < MAX_WAITING_HINTS:
            await self._redis.lpush(queue, task_message(queue, task, args))


def task_message(queue: str, task: str, args: list[Any]) -> bytes:
    """The envelope, as `celery.send_task(task, args, queue=queue)` would push it."""
    task_id = str(uuid.uuid4())
    body = orjson.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return orjson.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": task,
                "id": task_id,
                "root_id": task_id,
                "parent_id": None,
                "group": None,
                "retries": 0,
                "eta": None,
                "expires": None,
                "timelimit": [None, None],
                "argsrepr": repr(tuple(args)),
                "kwargsrepr": "{}",
                "origin": _ORIGIN,
                "ignore_result": True,
            },
            "properties": {
                "correlation_id": task_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
