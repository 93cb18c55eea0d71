"""Counts failed sign-ins and wrong management tokens in Redis, so that every worker of the admin UI sees one count."""

from typing import Any

from flask import Flask, Response
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from redis.backoff import NoBackoff
from redis.retry import Retry

from admin_ui.config import AdminConfig, limiter_storage_url

LIMITED_VIEWS = ("auth.submit_login", "account.change_password")
"""The views that check a password."""


def init_rate_limits(app: Flask, config: AdminConfig, *, timeout_s: float) -> None:
    """Limits `LIMITED_VIEWS`, which must be registered already, to `config.login_limits` failures per address.

    Without Redis each worker counts for itself: signing in must stay possible, and stay limited.
    """
    app.config["RATELIMIT_STORAGE_URI"] = limiter_storage_url(config.redis_url)
    app.config["RATELIMIT_STORAGE_OPTIONS"] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    limiter = Limiter(
        get_remote_address,
        app=app,
        in_memory_fallback_enabled=True,
        strategy="fixed-window",
        key_prefix="hyd:admin:",
    )
    limit = limiter.limit(";".join(config.login_limits), methods=["POST"], deduct_when=_failed)
    views: dict[str, Any] = app.view_functions
    for endpoint in LIMITED_VIEWS:
        views[endpoint] = limit(views[endpoint])
    count = limiter.shared_limit(";".join(config.token_limits), scope="management-token")
    app.extensions["hydrant_count_wrong_token"] = count(_counted)


def _counted() -> None:
    """Calling it counts one; over the limit flask-limiter raises instead."""


def _failed(response: Response) -> bool:
    return response.status_code >= 400
