"""What the gateway is told by its environment (docs/interfaces.md, section 8)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from urllib.parse import urlsplit

from gateway.accounting.allowance import AllowanceLimits


class SettingsError(Exception):
    """A variable is missing or has a value that cannot be used; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Immutable settings of one gateway process. Durations are seconds, sizes are bytes."""

    home: Path
    redis_url: str
    key_pepper: bytes
    hosted_url: str
    hosted_secret: str
    admin_url: str = "http://127.0.0.1:8401"
    host: str = "127.0.0.1"
    port: int = 8400
    workers: int = 1
    max_body_bytes: int = 8 * 1024 * 1024
    max_answer_bytes: int = 64 * 1024 * 1024
    body_timeout_s: float = 60.0
    connect_timeout_s: float = 2.0
    stall_timeout_s: float = 600.0
    drain_timeout_s: int = 30
    first_ping_s: float = 1.0
    ping_every_s: float = 5.0
    access_log: bool = False
    # What is admitted while Redis does not answer; None: nothing.
    allowance: AllowanceLimits | None = None

    @property
    def admin_address(self) -> str | None:
        """Where the admin UI is, as anybody may read it: on this machine, without a user and password that `admin_url`
        may have. None where it is elsewhere: the gateway may know it by a name of the inside."""
        url = urlsplit(self.admin_url)
        here = url.hostname in ("localhost", "127.0.0.1", "::1")
        return re.sub(r"//[^/]*@", "//", self.admin_url) if here else None

    @property
    def spool_dir(self) -> Path:
        """Where this machine's gateways keep usage events that Redis has not taken yet."""
        return self.home / "spool"


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Reads the environment. Raises `SettingsError` when a secret is missing or a number is not one."""
    home = Path(environ.get("HYDRANT_HOME") or Path.home() / ".local/state/hydrant")
    hosted_port = _integer(environ, "HYDRANT_HOSTED_PORT", 8402)
    return Settings(
        home=home,
        redis_url=environ.get("REDIS_URL") or f"unix://{home}/redis.sock",
        key_pepper=_secret(environ, "HYDRANT_KEY_PEPPER").encode(),
        hosted_url=f"http://127.0.0.1:{hosted_port}",
        hosted_secret=_secret(environ, "HYDRANT_HOSTED_SECRET"),
        admin_url=(
            environ.get("HYDRANT_ADMIN_URL") or f"http://127.0.0.1:{_integer(environ, 'HYDRANT_ADMIN_PORT', 8401)}"
        ).rstrip("/"),
        host=environ.get("HYDRANT_GATEWAY_HOST") or "127.0.0.1",
        port=_integer(environ, "HYDRANT_GATEWAY_PORT", 8400),
        workers=_integer(environ, "HYDRANT_GATEWAY_WORKERS", 1),
        max_body_bytes=_integer(environ, "HYDRANT_MAX_BODY_BYTES", 8 * 1024 * 1024),
        stall_timeout_s=_integer(environ, "HYDRANT_STALL_TIMEOUT_S", 600),
        drain_timeout_s=_integer(environ, "HYDRANT_DRAIN_TIMEOUT_S", 30),
        access_log=environ.get("HYDRANT_ACCESS_LOG") == "1",
        allowance=_allowance(environ),
    )


def _allowance(environ: Mapping[str, str]) -> AllowanceLimits | None:
    choice = environ.get("HYDRANT_ADMISSION_WITHOUT_REDIS") or "refuse"
    if choice not in ("refuse", "allowance"):
        raise SettingsError(f"HYDRANT_ADMISSION_WITHOUT_REDIS must be refuse or allowance, not {choice!r}.")
    if choice == "refuse":
        return None
    text = environ.get("HYDRANT_ALLOWANCE_USD") or "0.10"
    try:
        amount_nusd = Decimal(text).scaleb(9)
    except InvalidOperation:
        amount_nusd = Decimal("NaN")
    if not amount_nusd.is_finite() or not 1 <= amount_nusd < 10**15:
        raise SettingsError(f"HYDRANT_ALLOWANCE_USD must be an amount in dollars, such as 0.10, not {text!r}.")
    return AllowanceLimits(_integer(environ, "HYDRANT_ALLOWANCE_REQUESTS", 20), int(amount_nusd))


def _secret(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise SettingsError(
            f"{name} is not set. `hydrant up` sets it from $HYDRANT_HOME/secrets.json; export the same value here."
        )
    return value


def _integer(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(f"{name} must be a positive whole number, not {text!r}.")
    return int(text)
