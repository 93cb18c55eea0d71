"""Tells the controller that something in SQL wants its attention, by sending its task by name.

A hint only: when it is lost, the controller's own clock finds the change within seconds.
"""

from celery import Celery

from registry.broker import broker_url

TASK = "control.reconcile"
QUEUE = "control"


def make_sender(redis_url: str, *, timeout_s: float) -> Celery:
    """A Celery application that can only send; it waits at most `timeout_s` for the broker and tries once."""
    sender = Celery("hydrant-sender", broker=broker_url(redis_url), set_as_current=False)
    sender.conf.update(
        task_serializer="json",
        task_ignore_result=True,
        broker_connection_timeout=timeout_s,
        broker_transport_options={
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "max_retries": 0,
        },
    )
    return sender


def wake_controller(sender: Celery) -> None:
    """Ask the controller to look at SQL now. Raises kombu's OperationalError when the broker does not answer."""
    sender.send_task(TASK, queue=QUEUE, retry=False)
