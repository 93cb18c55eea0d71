"""The one way in which views change anything: through registry.ops, committed, published, and told to the controller.

SQL is the truth. When Redis is away the change is kept, the page says so in a banner, and the snapshot and the
controller's beat catch up when Redis is back.
"""

from collections.abc import Callable
from typing import TypeVar

import structlog
from celery import Celery
from flask import Flask, current_app, flash, g
from flask_login import current_user
from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from sqlalchemy.orm import Session

from admin_ui.database import db, forget_reads, session_factory
from admin_ui.formats import sentence
from admin_ui.forms.base import Form
from registry.db import session_scope
from registry.errors import RegistryError
from registry.ids import now_ms
from registry.publish import publish_balances, publish_snapshot

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

REDIS_TIMEOUT_S = 2.0
"""How long a page waits for Redis before it goes on without it."""

NOT_ANNOUNCED = (
    "Saved. Redis did not answer, so gateways and the controller do not know of it yet; "
    "they catch up by themselves when Redis is back."
)


def apply(
    change: Callable[[Session, str], Result],
    *,
    reconcile: bool = False,
    balance_of: Callable[[Result], str] | None = None,
) -> Result:
    """`commit` for the person who is signed in: the next page says when Redis could not be told."""
    result, announced = commit(change, current_user.email, reconcile=reconcile, balance_of=balance_of)
    if not announced:
        flash(NOT_ANNOUNCED, "warning")
    return result


def commit(
    change: Callable[[Session, str], Result],
    actor: str,
    *,
    reconcile: bool = False,
    balance_of: Callable[[Result], str] | None = None,
) -> tuple[Result, bool]:
    """Runs `change(session, actor)`, commits, and publishes the snapshot; whether Redis was told of it besides.

    With `reconcile` the controller is woken; with `balance_of` the balance of the tenant it names is published too.

    A RegistryError that `change` raises passes through, with nothing changed.
    """
    forget_reads()  # a read transaction that is still open must not wait for, or be waited for by, the change
    with session_scope(session_factory()) as session:
        result = change(session, actor)
    forget_reads()
    return result, announce(reconcile=reconcile, balance_of=None if balance_of is None else balance_of(result))


def submit(
    form: Form,
    change: Callable[[Session, str], Result],
    *,
    reconcile: bool = False,
    balance_of: Callable[[Result], str] | None = None,
) -> Result | None:
    """What `change` made of a form that was sent; None when the form or the registry refuses, and the form says why."""
    if not form.validate():
        return None
    try:
        return apply(change, reconcile=reconcile, balance_of=balance_of)
    except RegistryError as error:
        form.refuse(error)
        return None


def press(change: Callable[[Session, str], object], done: str, *, reconcile: bool = False) -> None:
    """A change behind a single button: the next page says `done`, or why the registry refused."""
    try:
        apply(change, reconcile=reconcile)
    except RegistryError as error:
        flash(sentence(error.message), "bad")
    else:
        flash(done, "ok")


def redis_is_up() -> bool:
    """Whether Redis answers; asked at most once a request."""
    if "redis_is_up" not in g:
        try:
            redis_client().ping()
            g.redis_is_up = True
        except RedisError:
            g.redis_is_up = False
    up: bool = g.redis_is_up
    return up


def init_announcements(app: Flask, *, redis_url: str, broker_url: str) -> None:
    """Connects the app to Redis (lazily) and to the Celery broker (to send tasks by name, none is imported)."""
    timeouts = {"socket_timeout": REDIS_TIMEOUT_S, "socket_connect_timeout": REDIS_TIMEOUT_S}
    # No retries: a page that waits for Redis to come back is worse than one that says it is away.
    app.extensions["hydrant_redis"] = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0), **timeouts)
    celery = Celery("admin_ui", broker=broker_url, set_as_current=False)
    celery.conf.update(
        task_serializer="json",
        task_ignore_result=True,
        broker_connection_timeout=REDIS_TIMEOUT_S,
        broker_transport_options={**timeouts, "max_retries": 0},
    )
    app.extensions["hydrant_celery"] = celery


def redis_client() -> "Redis":
    client: Redis = current_app.extensions["hydrant_redis"]
    return client


def announce(*, reconcile: bool = False, balance_of: str | None = None) -> bool:
    """Tells gateways and controller of a commit; False when Redis did not answer within `REDIS_TIMEOUT_S`."""
    try:
        # Sums first: a gateway that knows of a budget must find what is spent of it.
        if balance_of is not None:
            publish_balances(db(), redis_client(), [balance_of])
        publish_snapshot(db(), redis_client(), now_ms(), hold=current_app.config["HOLD"])
        if reconcile:
            current_app.extensions["hydrant_celery"].send_task("control.reconcile", queue="control", retry=False)
    except (RedisError, OperationalError, OSError) as error:
        g.redis_is_up = False
        log.warning("change_not_announced", error=type(error).__name__)
        return False
    return True
