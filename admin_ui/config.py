"""What the admin UI is told at start."""

import os
from dataclasses import dataclass, field

from registry.errors import InvalidError
from registry.settings import IDLE_MEMORY_PERCENT, Settings
from registry.snapshot import HoldDoc

DEFAULT_LOGIN_LIMITS = ("10 per minute", "100 per hour")
DEFAULT_TOKEN_LIMITS = ("20 per minute",)


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """Settings of one app; secrets never show in its repr.

    hold              bounds of a gateway's queue, published with the snapshot.
    login_limits      failed sign-ins allowed from one address.
    token_limits      wrong management tokens from one address that are answered 401; the next ones are told to wait.
    allow_plain_http  let people sign in over plain HTTP from other machines (a trusted network only).
    provider_http     a provider's address may be plain HTTP to this machine.
    idle_memory_percent  what idle workers may hold of all device memory beyond the keep-alive that was set.
    trusted_proxies   how many reverse proxies in front of us set X-Forwarded-*; 0 ignores those headers.
    """

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    key_pepper: str = field(repr=False)
    flask_secret: str = field(repr=False)
    hold: HoldDoc
    gateway_port: int = 8400
    login_limits: tuple[str, ...] = DEFAULT_LOGIN_LIMITS
    token_limits: tuple[str, ...] = DEFAULT_TOKEN_LIMITS
    allow_plain_http: bool = False
    trusted_proxies: int = 0
    provider_http: bool = False
    idle_memory_percent: int = IDLE_MEMORY_PERCENT

    @classmethod
    def from_settings(cls, settings: Settings) -> "AdminConfig":
        """The control plane's settings, plus the two that only this process reads (docs/interfaces.md, section 8).

        Raises InvalidError when one of those two has a bad value.
        """
        return cls(
            database_url=settings.database_url.get_secret_value(),
            redis_url=settings.redis_url.get_secret_value(),
            key_pepper=settings.key_pepper.get_secret_value(),
            flask_secret=settings.flask_secret.get_secret_value(),
            hold={
                "max_requests": settings.hold_max_requests,
                "max_bytes": settings.hold_max_bytes,
                "deadline_s": settings.hold_deadline_s,
            },
            gateway_port=settings.gateway_port,
            provider_http=settings.provider_http,
            idle_memory_percent=settings.idle_memory_percent,
            allow_plain_http=os.environ.get("HYDRANT_ADMIN_ALLOW_HTTP", "") == "1",
            trusted_proxies=_count("HYDRANT_ADMIN_TRUSTED_PROXIES"),
        )


def _count(variable: str) -> int:
    text = os.environ.get(variable, "0")
    if not text.isdecimal():
        raise InvalidError(f"{variable} must be a whole number, not {text!r}; correct the environment variable")
    return int(text)


def limiter_storage_url(redis_url: str) -> str:
    """`redis_url` as Flask-Limiter's storage spells it: unix sockets are `redis+unix://`."""
    return "redis+" + redis_url if redis_url.startswith("unix://") else redis_url
