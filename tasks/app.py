"""The Celery application: queues, the clock's ticks, and settings that make every message a hint.

No result backend, JSON only, no late acknowledgement: a message that is lost is made good by the next tick, and one
that comes twice changes nothing, so Redis' visibility timeout has nothing harmful to re-run.
"""

import logging
import os

from celery import Celery
from celery.signals import setup_logging
from kombu.entity import Queue

from registry.broker import broker_url
from registry.logs import configure_logging
from registry.settings import load_environment

RECONCILE_EVERY_S = 2.0
DRAIN_EVERY_S = 1.0
SWEEP_EVERY_S = 5.0
COSTS_EVERY_S = 10.0
BOOKS_EVERY_S = 15.0
CLOSE_EVERY_S = 60.0


def make_app(redis_url: str, node: str | None) -> Celery:
    """An app on this Redis. A node's worker knows the node tasks only: it has no database to open."""
    modules = (
        ["tasks.node", "tasks.node_events"]
        if node
        else ["tasks.control", "tasks.ledger", "tasks.costs", "tasks.reconciliation", "tasks.invoices"]
    )
    app = Celery("hydrant", broker=broker_url(redis_url), include=modules)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_time_limit=120,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        # Nobody uses it, and its subscription, made again to a Redis that is still loading, blocks the worker for ever.
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"socket_timeout": 30, "retry_on_timeout": True},
        timezone="UTC",
        task_routes={"control.*": {"queue": "control"}, "ledger.*": {"queue": "ledger"}},
        task_default_queue="control",
        task_queues=None if node else [_hints("control"), _hints("ledger")],
        beat_scheduler="tasks.beat:BoundedScheduler",
        hydrant_redis_url=redis_url,
        # A tick that waited in the queue longer than it repeats is of no use: the next one does its work.
        beat_schedule={
            "reconcile": _every(RECONCILE_EVERY_S, "control.reconcile", "control"),
            "drain": _every(DRAIN_EVERY_S, "ledger.drain", "ledger"),
            "sweep": _every(SWEEP_EVERY_S, "ledger.sweep", "ledger"),
            "costs": _every(COSTS_EVERY_S, "ledger.costs", "ledger"),
            "books": _every(BOOKS_EVERY_S, "ledger.reconcile", "ledger"),
            "close": _every(CLOSE_EVERY_S, "ledger.close", "ledger"),
        },
    )
    return app


def _hints(name: str) -> Queue:
    """A queue whose messages are not acknowledged.

    A worker of one process takes no message while another is unacknowledged. When Redis dies just as it acknowledges
    one, that is only logged: it would never take a message again, nor notice that its connection is gone.
    """
    return Queue(name, routing_key=name, no_ack=True)  # type: ignore[no-untyped-call]


def _every(seconds: float, task: str, queue: str) -> dict[str, object]:
    return {"task": task, "schedule": seconds, "options": {"queue": queue, "expires": seconds * 2}}


@setup_logging.connect  # type: ignore[untyped-decorator]
def log_as_all(loglevel: int, **_: object) -> None:
    """Celery's own log set-up would replace ours. What it says is held to its `-l`: at info two lines a task."""
    configure_logging()
    logging.getLogger("celery").setLevel(loglevel)


app = make_app(load_environment().redis_url.get_secret_value(), os.environ.get("HYDRANT_NODE"))
