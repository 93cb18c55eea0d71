"""Settings of the control plane: environment variables (docs/interfaces.md, section 8) and the secrets file.

The secrets file, `$HYDRANT_HOME/secrets.json`, is made once with mode 0600. Whichever process comes first makes it;
all others read the same values.
"""

import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from registry.errors import InvalidError
from registry.snapshot import HoldDoc
from registry.store_origin import origin

SECRET_NAMES = ("key_pepper", "flask_secret", "hosted_secret")
IDLE_MEMORY_PERCENT = 30
"""orchestrator.policies.policy.IDLE_PERCENT, which this part does not import; a test holds them together."""


def default_home() -> Path:
    """HYDRANT_HOME when it is not set."""
    return Path.home() / ".local" / "state" / "hydrant"


class Settings(BaseSettings):
    """The environment, with every default filled in. Secrets, and URLs with their passwords, never show in a repr."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    home: Path = Field(default_factory=default_home, validation_alias="HYDRANT_HOME")
    database_url: SecretStr = Field(default=SecretStr(""), validation_alias="DATABASE_URL")
    redis_url: SecretStr = Field(default=SecretStr(""), validation_alias="REDIS_URL")
    key_pepper: SecretStr = Field(default=SecretStr(""), validation_alias="HYDRANT_KEY_PEPPER")
    flask_secret: SecretStr = Field(default=SecretStr(""), validation_alias="HYDRANT_FLASK_SECRET")
    hosted_secret: SecretStr = Field(default=SecretStr(""), validation_alias="HYDRANT_HOSTED_SECRET")
    gateway_port: int = Field(default=8400, ge=1, le=65535, validation_alias="HYDRANT_GATEWAY_PORT")
    admin_port: int = Field(default=8401, ge=1, le=65535, validation_alias="HYDRANT_ADMIN_PORT")
    hosted_port: int = Field(default=8402, ge=1, le=65535, validation_alias="HYDRANT_HOSTED_PORT")
    engine_ports: int = Field(default=31000, ge=1024, le=65336, validation_alias="HYDRANT_ENGINE_PORTS")
    policy: Literal["hydrant", "hydraserve", "serverlessllm", "serverless-vllm"] = Field(
        default="hydrant", validation_alias="HYDRANT_POLICY"
    )
    idle_memory_percent: int = Field(
        default=IDLE_MEMORY_PERCENT, ge=0, le=100, validation_alias="HYDRANT_IDLE_MEMORY_PERCENT"
    )
    store_gbps: dict[str, Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]] = Field(
        default_factory=dict, validation_alias="HYDRANT_STORE_GBPS"
    )
    provider_http: bool = Field(default=False, validation_alias="HYDRANT_PROVIDER_HTTP")
    hold_max_requests: int = Field(default=512, ge=0, validation_alias="HYDRANT_HOLD_MAX_REQUESTS")
    hold_max_bytes: int = Field(default=64_000_000, ge=0, validation_alias="HYDRANT_HOLD_MAX_BYTES")
    hold_deadline_s: int = Field(default=120, ge=1, validation_alias="HYDRANT_HOLD_DEADLINE_S")

    @property
    def store_bps(self) -> dict[str, int]:
        """Bytes per second that each named store gives to all nodes together."""
        return {origin(name): max(1, int(gbps * 1e9 / 8)) for name, gbps in self.store_gbps.items()}

    @property
    def hold(self) -> HoldDoc:
        """Bounds of a gateway's queue, as the snapshot carries them."""
        return {
            "max_requests": self.hold_max_requests,
            "max_bytes": self.hold_max_bytes,
            "deadline_s": self.hold_deadline_s,
        }

    @model_validator(mode="after")
    def _fill_from_home(self) -> "Settings":
        home = self.home.expanduser().absolute()
        urls = {"database_url": f"sqlite:///{home}/hydrant.db", "redis_url": f"unix://{home}/redis.sock"}
        object.__setattr__(self, "home", home)
        for name, default in urls.items():
            if not getattr(self, name).get_secret_value():
                object.__setattr__(self, name, SecretStr(default))
        return self


def load_settings() -> Settings:
    """Read the environment, make `$HYDRANT_HOME` (mode 0700) and its secrets file if missing, and fill in the secrets.

    Raises InvalidError when a variable has a bad value or the secrets file is unreadable, damaged or open to others.
    """
    settings = load_environment()
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = load_secrets(settings.home / "secrets.json")
    missing = {name: SecretStr(kept[name]) for name in SECRET_NAMES if not getattr(settings, name).get_secret_value()}
    return settings.model_copy(update=missing)


def load_environment() -> Settings:
    """Read the environment alone: for a process that needs no secret, and on a node must not make any.

    Raises InvalidError when a variable has a bad value.
    """
    try:
        return Settings()
    except SettingsError:
        # The only variable that is not a plain value; the library's message does not name it.
        name = "HYDRANT_STORE_GBPS"
        raise InvalidError(f'{name}: expected JSON like {{"s3://weights": 25}}; correct the variable', name) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "environment"
        raise InvalidError(f"{name}: {first['msg']}; correct the environment variable", name) from None


def load_secrets(path: Path) -> dict[str, str]:
    """The secrets in `path`, which is made first if it does not exist.

    Making is atomic and exclusive: of processes that start together, one file wins and all read it.
    """
    if not path.exists():
        _create_secrets(path)
    if path.stat().st_mode & 0o077:
        raise InvalidError(f"{path} can be read by other users; run: chmod 600 {path}", "secrets")
    try:
        found = json.loads(path.read_text())
    except ValueError:
        raise InvalidError(f"{path} is not JSON; restore it from a backup (new secrets invalidate API keys)") from None
    lacking = [name for name in SECRET_NAMES if not (isinstance(found, dict) and isinstance(found.get(name), str))]
    if lacking:
        raise InvalidError(f"{path} lacks {', '.join(lacking)}; restore it from a backup", lacking[0])
    return {name: found[name] for name in SECRET_NAMES}


def _create_secrets(path: Path) -> None:
    content = json.dumps({name: secrets.token_hex(32) for name in SECRET_NAMES}, indent=2)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".secrets-")  # mkstemp: mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike rename, never replaces another process's file
        except FileExistsError:
            return
    finally:
        os.unlink(temporary)
