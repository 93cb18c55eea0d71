"""Hydrant with everything on: a key and a tenant with limits and money, Redis with AOF, SQLite, metering, ledger."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from sqlalchemy import func, select

from bench.gateway.machine import Cores, free_ports
from bench.gateway.servers import PYTHON, Servers
from bench.gateway.upstream import PACED
from bench.gateway.variant import Variant
from cli.services import procfile
from registry.db import SessionFactory, make_engine, make_session_factory, read_scope, session_scope
from registry.ids import now_ms
from registry.manifest import MANIFEST_FORMAT, ManifestDoc
from registry.migrate import upgrade
from registry.models import Usage
from registry.ops.keys import create_key
from registry.ops.models import register_model
from registry.ops.money import top_up
from registry.ops.tenants import create_tenant
from registry.publish import publish_balances, publish_snapshot
from registry.settings import Settings, load_settings
from tasks.routes import publish_routes

ACTOR = "bench"
MODEL = "bench"
GATEWAY = "hydrant"
COLD_MODELS = tuple(f"cold-{number}" for number in range(20))
"""Registered, and never routed: who asks for one of them is held."""
HELD_AT_MOST = 4096
HOLD_S = 300
PLENTY = 100_000_000
"""Of every limit: each is counted and compared, and none is reached."""
TOKENS = 10**12
LEDGER_NICE = 19
"""The ledger settles in the background of the load's core, as it would on another machine."""
START_S = 30.0
NOTE = "key, limits, budget, reservation, metering on; Redis with AOF and the ledger on the other core"


class Hydrant:
    """See the module."""

    def __init__(self, servers: Servers, cores: Cores, upstream_port: int) -> None:
        """Starts Redis, makes the database, and publishes what the gateway reads."""
        self._servers, self._cores, self._upstream_port = servers, cores, upstream_port
        home = servers.home
        (self._port,) = free_ports(1)
        self._environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
            "HYDRANT_HOME": str(home),
            "DATABASE_URL": f"sqlite:///{home}/hydrant.db",
            "REDIS_URL": f"unix://{home}/redis.sock",
            "HYDRANT_GATEWAY_PORT": str(self._port),
            "HYDRANT_HOLD_MAX_REQUESTS": str(HELD_AT_MOST),
            "HYDRANT_HOLD_DEADLINE_S": str(HOLD_S),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        self._settings = self._load_settings()
        servers.start("redis", cores.load, ["sh", "-c", procfile()["redis"]], self._environ)
        # It waits for Redis to come up.
        patient = Retry(ConstantBackoff(0.02), 500)
        self.redis = Redis.from_url(self._environ["REDIS_URL"], retry=patient, retry_on_error=[RedisError])
        self.redis.ping()
        engine = make_engine(self._environ["DATABASE_URL"])
        upgrade(engine)
        self.sessions: SessionFactory = make_session_factory(engine)
        self.api_key = self._fill()

        self._gateway: subprocess.Popen[bytes] | None = None

    def start_ledger(self) -> None:
        """Starts the worker that writes usage to SQL, and what tells it to once a second."""
        for name in ("ledger", "beat"):
            command = ["sh", "-c", procfile()[name]]
            self._servers.start(name, self._cores.load, command, self._environ, nice=LEDGER_NICE)

    async def fresh(self) -> Variant:
        """A gateway that has just been started, instead of the one before. Raises LoadError."""
        if self._gateway is not None:
            await self._servers.end(self._gateway)
        self._gateway = self.start_gateway()
        await self._servers.until_up(GATEWAY, self._gateway, self.ready_url, START_S)
        return self.variant(self._gateway.pid)

    def variant(self, pid: int) -> Variant:
        """How the gateway with this process id is asked."""
        return Variant(GATEWAY, self._port, MODEL, self.api_key, pid, NOTE)

    @property
    def ready_url(self) -> str:
        """Answers 200 once the gateway can serve."""
        return f"http://127.0.0.1:{self._port}/ready"

    def start_gateway(self, *options: str, log: str = GATEWAY) -> subprocess.Popen[bytes]:
        """A gateway as the Procfile's command leaves it, with the interpreter's `options`."""
        environ = self._without_database() | {
            "HYDRANT_KEY_PEPPER": self._settings.key_pepper.get_secret_value(),
            "HYDRANT_HOSTED_SECRET": self._settings.hosted_secret.get_secret_value(),
        }
        return self._servers.start(log, self._cores.server, [PYTHON, *options, "-m", "gateway"], environ)

    def start_as_procfile(self) -> subprocess.Popen[bytes]:
        """A gateway by the Procfile's whole command, which reads the secrets before it becomes the gateway."""
        return self._servers.start(
            "start", self._cores.server, ["sh", "-c", procfile()["gateway"]], self._without_database()
        )

    def _without_database(self) -> dict[str, str]:
        return {name: value for name, value in self._environ.items() if name != "DATABASE_URL"}

    def unsettled(self) -> int:
        """Usage events that the ledger has still to write to SQL."""
        return int(self.redis.xlen("hyd:usage"))

    def settled(self) -> int:
        """Usage rows in SQL."""
        with read_scope(self.sessions) as session:
            return session.scalar(select(func.count()).select_from(Usage)) or 0

    def close(self) -> None:
        """Lets go of Redis and SQL."""
        self.redis.close()
        self.sessions.kw["bind"].dispose()

    def _fill(self) -> str:
        """A tenant with money, its key, models and routes; the key."""
        with session_scope(self.sessions) as session:
            tenant = create_tenant(session, ACTOR, name="bench", rpm=PLENTY, tpm=TOKENS, parallel=PLENTY)
            top_up(session, ACTOR, tenant.id, 10**15, "bench")
            pepper = self._settings.key_pepper.get_secret_value()
            _, key = create_key(
                session, ACTOR, pepper, tenant_id=tenant.id, name="bench", rpm=PLENTY, tpm=TOKENS, parallel=PLENTY
            )
            for name in (MODEL, PACED, *COLD_MODELS):
                register_model(
                    session, ACTOR, name=name, source="/bench", manifest=_manifest(), input_nusd=20, output_nusd=80
                )
        with read_scope(self.sessions) as session:
            publish_snapshot(session, self.redis, now_ms(), hold=self._settings.hold)
            publish_balances(session, self.redis, {tenant.id})
        publish_routes(self.redis, {name: [self._route(name)] for name in (MODEL, PACED)}, now_ms())
        return key

    def _route(self, name: str) -> dict[str, Any]:
        """As the controller publishes a running group."""
        return {
            "group_id": f"grp_{name}",
            "url": f"http://127.0.0.1:{self._upstream_port}",
            "api_key": "worker-key",
            "state": "standalone",
            "cold_start_id": None,
            "started_at_ms": now_ms(),
            "prefer": 2,
            "capacity": PLENTY,
        }

    def _load_settings(self) -> Settings:
        """As the started processes see them."""
        before = dict(os.environ)
        os.environ.update(self._environ)
        try:
            return load_settings()
        finally:
            os.environ.clear()
            os.environ.update(before)


def _manifest() -> ManifestDoc:
    """Of a model without weights: nothing here starts one."""
    return {
        "format": MANIFEST_FORMAT,
        "architecture": "LlamaForCausalLM",
        "layers": 1,
        "hidden_size": 8,
        "vocab_size": 32,
        "dtype": "float16",
        "tied_embeddings": False,
        "context_length": 8192,
        "kv_bytes_per_token": 64,
        "weight_bytes": 0,
        "max_stages": 1,
        "tensors": [],
        "files": [],
    }
