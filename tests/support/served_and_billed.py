"""A gateway, its ledger, Redis and Postgres as real processes that can be killed, before a worker of the test."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import func, select
from support.celery_processes import Processes
from support.fake_worker import FakeWorker
from support.gateway_process import environment, route_entry
from support.postgres import PostgresServer
from support.redis_server import RedisServer
from support.registry_rows import add_model, add_tenant

from registry import migrate
from registry.db import make_engine, make_session_factory, read_scope, session_scope
from registry.ids import now_ms
from registry.models import LedgerEntry, Usage
from registry.ops import keys, money
from registry.publish import publish_balances, publish_snapshot

ROOT = Path(__file__).resolve().parents[2]
MODEL = "small"


@dataclass
class Answer:
    """What a client got: the `usage` of a whole answer, or how it `broke` off, after so many `tokens`."""

    request_id: str
    status: int | None = None
    usage: dict[str, Any] | None = None
    tokens: int = 0
    broke: str | None = None


@dataclass
class ServedAndBilled:
    """Everything that serves and bills, in `home` (short: unix sockets lie in it)."""

    home: Path
    redis: RedisServer
    postgres: PostgresServer
    worker: FakeWorker
    database_url: str
    answers: list[Answer] = field(default_factory=list)
    tenant_id: str = ""
    key: str = ""

    def start(self) -> ServedAndBilled:
        """Registers a tenant, a key and a model, and starts the processes."""
        self.engine = make_engine(self.database_url)
        self.sessions = make_session_factory(self.engine)
        migrate.upgrade(self.engine)
        self.environ = environment(self.redis, self.home)
        with session_scope(self.sessions) as session:
            tenant = add_tenant(session)
            model = add_model(session, MODEL)
            price = {"prompt": 20, "cached": 5, "completion": 80, "request": 1000}
            self.price, self.tenant_id, self.model_id = price, tenant.id, model.id
            money.top_up(session, "tester", tenant.id, 10**12, "test")
            _, self.key = keys.create_key(
                session, "tester", self.environ["HYDRANT_KEY_PEPPER"], tenant_id=tenant.id, name="test"
            )
        with read_scope(self.sessions) as session, self.redis.client() as client:
            publish_snapshot(session, client, now_ms())
            publish_balances(session, client, [self.tenant_id])
        self.route()
        self.processes = Processes(self.home, self.redis.url, self.database_url)
        self.ledger = self.processes.ledger().wait_ready()
        self.processes.beat()
        self.start_gateway()
        return self

    def stop(self) -> None:
        """Ends all that was started here."""
        self.gateway.kill()
        self.gateway.wait()
        self.processes.end()
        self.engine.dispose()

    def start_gateway(self) -> None:
        """Starts the gateway, on the port it always has."""
        log = (self.home / "gateway.log").open("ab")
        with log:
            self.gateway = subprocess.Popen(
                [sys.executable, "-m", "gateway"], cwd=ROOT, env=self.environ, stdout=log, stderr=log
            )

    def route(self) -> None:
        """Says where the model runs, unless Redis knows: what the controller would do."""
        with self.redis.client() as client:
            if not client.hexists("hyd:routes", MODEL):
                client.hset("hyd:routes", MODEL, json.dumps([route_entry(self.worker.url)]))
                client.publish("hyd:routes:changed", client.incr("hyd:routes:version"))

    def kill(self, victim: str) -> None:
        """SIGKILLs one part and starts it again at once, as its supervisor would."""
        if victim == "gateway":
            self.gateway.kill()
            self.gateway.wait()
            self.start_gateway()
        elif victim == "ledger":
            self.ledger.kill()
            self.ledger = self.processes.ledger()
        elif victim == "redis":
            self.redis.kill()
            self.redis.start()
        elif victim == "database":
            self.postgres.crash()
            self.postgres.restart()
        elif victim == "redis and all it knew":
            self.redis.kill()
            for kept in self.redis.directory.glob("appendonly*"):
                kept.unlink()
            self.redis.start()
            self.route()
        else:
            raise ValueError(victim)

    async def ask(self, client: aiohttp.ClientSession, number: int, *, stream: bool) -> Answer:
        """One request; whatever becomes of it is noted. A gateway that is not up yet is waited for."""
        answer = Answer(f"req-{number}")
        self.answers.append(answer)
        body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "a b c d e f"}]}
        body |= {"max_tokens": 6, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        headers = {"x-request-id": answer.request_id}
        while not await self._try(client, body, headers, answer):  # noqa: ASYNC110 - nothing tells when it listens
            await asyncio.sleep(0.05)
        if answer.status == 503:
            await asyncio.sleep(0.3)  # far less than its Retry-After, so that some come in the worst moments
        return answer

    async def _try(
        self, client: aiohttp.ClientSession, body: dict[str, Any], headers: dict[str, str], answer: Answer
    ) -> bool:
        """Whether a gateway took the request."""
        try:
            async with client.post("/v1/chat/completions", json=body, headers=headers) as response:
                answer.status = response.status
                if response.status != 200:
                    await response.read()
                elif body["stream"]:
                    await self._read_stream(response, answer)
                else:
                    answer.usage = (await response.json())["usage"]
        except aiohttp.ClientConnectorError:
            return False
        except (aiohttp.ClientError, ConnectionError) as error:
            answer.broke = type(error).__name__
        return True

    async def _read_stream(self, response: aiohttp.ClientResponse, answer: Answer) -> None:
        usage = None
        async for line in response.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                answer.tokens += sum(bool(choice["delta"].get("content")) for choice in event.get("choices", ()))
            elif line.startswith(b"data: [DONE]"):
                answer.usage = usage

    def cost(self, usage: dict[str, Any]) -> int:
        """What an answer with this usage costs, in nano-dollars."""
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        fresh = usage["prompt_tokens"] - cached
        tokens = fresh * self.price["prompt"] + cached * self.price["cached"]
        return int(tokens + usage["completion_tokens"] * self.price["completion"] + self.price["request"])

    def wrong_in_books(self) -> dict[str, object]:
        """Where ledger, usage and Redis do not say the same; and what is still open."""
        with read_scope(self.sessions) as session:
            settled = session.scalar(select(func.sum(LedgerEntry.amount_nusd)).where(LedgerEntry.kind != "top_up")) or 0
            balance = session.scalar(select(func.sum(LedgerEntry.amount_nusd)))
            used = session.scalar(select(func.sum(Usage.cost_nusd))) or 0
        with self.redis.client() as client:
            pairs = {
                "ledger, usage": (-settled, used),
                "balance in Redis, SQL": (int(client.hget("hyd:balance", self.tenant_id) or 0), balance),
                "reserved": (int(client.hget("hyd:reserved", self.tenant_id) or 0), 0),
                "open attempts": (client.hlen("hyd:attempts"), 0),
                "unsettled events": (client.xlen("hyd:usage"), 0),
            }
        return {what: pair for what, pair in pairs.items() if pair[0] != pair[1]}

    def billed(self) -> dict[str, list[Usage]]:
        """The usage rows that cost something, by request."""
        found: dict[str, list[Usage]] = {}
        with read_scope(self.sessions) as session:
            for row in session.scalars(select(Usage).where(Usage.cost_nusd > 0)):
                found.setdefault(row.request_id, []).append(row)
        return found
