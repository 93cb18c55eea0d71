"""Follows a noded and sends the controller its full state whenever it changes, and every few seconds besides.

A thread of the node worker, started when the worker is ready. It holds no state of its own: a report that is lost is
followed by the next one, which says the same and more.
"""

import os
import threading
from functools import cache
from typing import Any

import structlog
from celery.signals import worker_ready, worker_shutting_down
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from engine.client import NodedUnavailable
from registry.settings import load_settings
from tasks.app import app
from tasks.node import noded

HEARTBEAT_S = 5.0
"""A report goes out at least this often: a node that is silent for four of these is lost to the controller."""
RETRY_S = 0.5
MAX_WAITING_REPORTS = 256
"""With so many messages for the controller waiting, a report is held back: a later one says the same and more."""

log = structlog.get_logger(__name__)
_ended = threading.Event()


def follow(ended: threading.Event) -> None:
    """Send reports until `ended` is set. An unreachable noded or broker is retried; the controller sees the silence."""
    seen = -1
    told_away = False
    while not ended.is_set():
        try:
            report = noded().events(after=seen, wait_s=HEARTBEAT_S)
            if _send(report):
                seen, told_away = report["seq"], False
                continue
            seen = -1
            ended.wait(RETRY_S)
        except (NodedUnavailable, OperationalError, RedisError) as error:
            if not told_away:
                log.warning("cannot report this node; trying on", error=str(error))
                told_away = True
            seen = -1
            ended.wait(RETRY_S)


def _send(report: dict[str, Any]) -> bool:
    """False when it was not sent because enough messages wait: what expires in a list is still kept there."""
    if int(_redis().llen("control")) >= MAX_WAITING_REPORTS:
        return False
    app.send_task("control.node_report", args=[report["node"], report], queue="control", expires=HEARTBEAT_S * 4)
    return True


@cache
def _redis() -> Redis:
    return Redis.from_url(load_settings().redis_url.get_secret_value(), socket_timeout=10, health_check_interval=30)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _start(**_: object) -> None:
    if os.environ.get("HYDRANT_NODE"):
        threading.Thread(target=follow, args=(_ended,), name="node-events", daemon=True).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: object) -> None:
    _ended.set()
