"""A real gateway on a free port inside the test's event loop, with a published read model, and its clients."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import aiohttp
import redis.asyncio
import uvicorn
from support.fake_worker import WORKER_KEY
from support.leaks import plant
from support.redis_server import RedisServer

from gateway.app import Gateway
from gateway.clients.connection import Connection
from gateway.readmodel.snapshot import hash_key
from gateway.settings import Settings
from registry.budget_windows import field, window_at

PEPPER = plant("the gateway tests' pepper", "test-pepper").encode()
KEY = "hyd-abcdefgh-" + "k" * 43
OTHER_KEY = "hyd-bcdefghi-" + "o" * 43
HOSTED_SECRET = plant("the hosted process' secret", "hosted-secret-of-tests")
PRICE = {"price_id": "prc_1", "input_nusd": 10, "cached_input_nusd": 5, "output_nusd": 40, "request_nusd": 100}


def key_entry(key_id: str = "key_1", tenant_id: str = "ten_1", **changes: Any) -> dict[str, Any]:
    """A key of the snapshot, without limits."""
    entry = {"key_id": key_id, "tenant_id": tenant_id, "name": key_id, "models": ["*"], "expires_at_ms": None}
    return (
        entry | {"rpm": None, "tpm": None, "parallel": None, "sse_ping": True, "defaults": {}, "ceilings": {}} | changes
    )


def tenant_entry(**changes: Any) -> dict[str, Any]:
    """A tenant of the snapshot, without limits."""
    return {"name": "T", "enabled": True, "rpm": None, "tpm": None, "parallel": None, "salt": "salt-1"} | changes


def model_entry(**changes: Any) -> dict[str, Any]:
    """A model of the snapshot."""
    entry = {"model_id": "mod_1", "enabled": True, "lane": "direct", "context_length": 2048, "default_max_tokens": 5}
    more = {
        "embedding": False,
        "created_at_ms": 1_700_000_000_000,
        "price": PRICE,
        "slo_ttft_ms": 10_000,
        "keep_alive_s": 60,
    }
    return entry | more | changes


class World:
    """What the gateway reads from Redis, and a way to change it."""

    def __init__(self, url: str) -> None:
        self.redis = redis.asyncio.Redis.from_url(url, decode_responses=True)
        self.version = 0
        self.routes_version = 0
        self.keys = {hash_key(KEY, PEPPER): key_entry(), hash_key(OTHER_KEY, PEPPER): key_entry("key_2", "ten_2")}
        self.tenants = {"ten_1": tenant_entry(), "ten_2": tenant_entry(salt="salt-2")}
        self.models = {"small": model_entry()}
        self.aliases = {"tiny": {"small": 1}}
        self.policies: dict[str, Any] = {}
        self.hold = {"max_requests": 100, "max_bytes": 1_000_000, "deadline_s": 30}

    async def publish(self) -> None:
        """Publishes the snapshot, and a balance of one dollar for each tenant without one."""
        self.version += 1
        document = {
            "version": self.version, "built_at_ms": 0, "keys": self.keys, "tenants": self.tenants,
            "models": self.models, "aliases": self.aliases, "hold": self.hold,
            "policies": self.policies,
        }  # fmt: skip
        for tenant_id in self.tenants:
            await self.redis.hsetnx("hyd:balance", tenant_id, 1_000_000_000)
        await self.redis.set("hyd:snapshot", json.dumps(document))
        await self.redis.publish("hyd:snapshot:changed", self.version)

    async def route(self, model: str, *routes: dict[str, Any]) -> None:
        """Sets a model's routes; none at all takes it away."""
        async with self.redis.pipeline(transaction=True) as pipe:
            if routes:
                pipe.hset("hyd:routes", model, json.dumps(list(routes)))
                pipe.hdel("hyd:coldstart", model)
            else:
                pipe.hdel("hyd:routes", model)
            pipe.incr("hyd:routes:version")
            await pipe.execute()
        await self.redis.publish("hyd:routes:changed", "1")

    async def until_read(self) -> None:
        """Waits until every gateway that has told of itself has read the routes, and with them the snapshot before."""
        wanted = int(await self.redis.get("hyd:routes:version") or 0)

        async def read() -> bool:
            beats = [json.loads(beat) for beat in await self.redis.hvals("hyd:gateways")]
            return bool(beats) and all(beat["routes_version"] >= wanted for beat in beats)

        await until(read)

    async def applied(self) -> None:
        """Publishes the snapshot, and waits until the gateways have read it: they read messages in order."""
        await self.publish()
        await self.redis.incr("hyd:routes:version")
        await self.redis.publish("hyd:routes:changed", "1")
        await self.until_read()

    async def spend(self, scope_id: str, period: str, amount_nusd: int = 0) -> None:
        """Says, as the ledger does, what was spent in a budget's present window and, for the next one, nothing."""
        seconds, _ = await self.redis.time()
        window = window_at(period, seconds * 1000)
        await self.redis.hset("hyd:budget:spent", field(scope_id, period, window), amount_nusd)
        await self.redis.hsetnx("hyd:budget:spent", field(scope_id, period, window + 1), 0)

    async def budget_reserved(self) -> int:
        """What is held in all budgets' windows together."""
        return sum(int(amount) for amount in await self.redis.hvals("hyd:budget:reserved"))

    async def released(self) -> None:
        """Waits until nothing is reserved beyond what the final events cost."""

        async def clean() -> bool:
            owed = sum(event["reserved_nusd"] for event in await self.events())
            return await self.reserved() == owed

        await until(clean)

    async def events(self) -> list[dict[str, Any]]:
        """The final usage events so far."""
        return [json.loads(fields["event"]) for _, fields in await self.redis.xrange("hyd:usage")]

    async def until_events(self, count: int) -> list[dict[str, Any]]:
        """Waits until this many final events are there."""
        await until(lambda: self._has_events(count))
        return await self.events()

    async def _has_events(self, count: int) -> bool:
        return await self.redis.xlen("hyd:usage") >= count

    async def reserved(self, tenant_id: str = "ten_1") -> int:
        return int(await self.redis.hget("hyd:reserved", tenant_id) or 0)


def route_entry(url: str, group_id: str = "grp_1", **changes: Any) -> dict[str, Any]:
    """A route of `hyd:routes`."""
    entry = {"group_id": group_id, "url": url, "api_key": WORKER_KEY, "state": "standalone", "cold_start_id": "cst_1"}
    return entry | {"started_at_ms": 0, "prefer": 1, "capacity": 8} | changes


class RunningGateway:
    """The gateway under uvicorn, on a free port."""

    def __init__(self, redis_url: str, home: Path, **changes: Any) -> None:
        self.settings = Settings(
            home=home, redis_url=redis_url, key_pepper=PEPPER, hosted_url=changes.pop("hosted_url", "http://127.0.0.1:9"),
            hosted_secret=HOSTED_SECRET, first_ping_s=0.05, ping_every_s=0.05, **changes,
        )  # fmt: skip
        self.app = Gateway(self.settings)
        config = uvicorn.Config(self.app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="on",
                                http=Connection, ws="none", timeout_graceful_shutdown=2)  # fmt: skip
        self._server = uvicorn.Server(config)
        self._serving: asyncio.Task[None] | None = None
        self.url = ""

    async def start(self, *, ready: bool = True) -> RunningGateway:
        self._serving = asyncio.create_task(self._server._serve())
        await until(lambda: self._server.started)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        if ready:
            await until(self._is_ready)
        return self

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._server.server_state.connections)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

    async def _is_ready(self) -> bool:
        async with aiohttp.ClientSession() as session, session.get(self.url + "/ready") as response:
            return response.status == 200


def environment(redis_server: RedisServer, home: Path, **changes: str) -> dict[str, str]:
    """What `hydrant up` would export, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "PATH": os.environ["PATH"], "HYDRANT_HOME": str(home), "REDIS_URL": redis_server.url,
        "HYDRANT_KEY_PEPPER": PEPPER.decode(), "HYDRANT_HOSTED_SECRET": HOSTED_SECRET,
        "HYDRANT_GATEWAY_PORT": str(port), "HYDRANT_DRAIN_TIMEOUT_S": "5",
    } | changes  # fmt: skip


async def until(condition: Any, seconds: float = 10.0) -> None:
    """Waits for a condition (a function, or a coroutine function); fails when it does not come true."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.01)
