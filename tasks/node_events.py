"""Follows a noded and sends the controller its full state whenever it changes, and every few seconds besides.

A thread of the node worker, started when the worker is ready. It holds no state of its own: a report that is lost is
followed by the next one, which says the same and more.
"""

import os
import threading
from typing import Any

import structlog
from celery.signals import worker_ready, worker_shutting_down
from kombu.exceptions import OperationalError

from engine.client import NodedUnavailable
from tasks.app import app
from tasks.node import noded

HEARTBEAT_S = 5.0
"""A report goes out at least this often: a node that is silent for four of these is lost to the controller."""
RETRY_S = 0.5

log = structlog.get_logger(__name__)
_ended = threading.Event()


def follow(ended: threading.Event) -> None:
    """Send reports until `ended` is set. An unreachable noded or broker is retried; the controller sees the silence."""
    seen = -1
    told_away = False
    while not ended.is_set():
        try:
            report = noded().events(after=seen, wait_s=HEARTBEAT_S)
            _send(report)
            seen, told_away = report["seq"], False
        except (NodedUnavailable, OperationalError) as error:
            if not told_away:
                log.warning("cannot report this node; trying on", error=str(error))
                told_away = True
            seen = -1
            ended.wait(RETRY_S)


def _send(report: dict[str, Any]) -> None:
    app.send_task("control.node_report", args=[report["node"], report], queue="control", expires=HEARTBEAT_S * 4)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _start(**_: object) -> None:
    if os.environ.get("HYDRANT_NODE"):
        threading.Thread(target=follow, args=(_ended,), name="node-events", daemon=True).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: object) -> None:
    _ended.set()
