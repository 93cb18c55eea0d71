"""Counts failed sign-ins in Redis, so that every worker of the admin UI sees the same count."""

from flask import Flask
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from admin_ui.config import limiter_storage_url

# Without Redis each worker counts for itself (in_memory_fallback): signing in must stay possible, and stay limited.
limiter = Limiter(get_remote_address, in_memory_fallback_enabled=True, strategy="fixed-window", key_prefix="hyd:admin:")


def init_rate_limits(app: Flask, redis_url: str) -> None:
    """Counts in `redis_url`."""
    app.config["RATELIMIT_STORAGE_URI"] = limiter_storage_url(redis_url)
    app.config["RATELIMIT_STORAGE_OPTIONS"] = {"socket_timeout": 2, "socket_connect_timeout": 2}
    app.config["RATELIMIT_ENABLED"] = True
    limiter.init_app(app)
