"""A whole Hydrant for end-to-end tests: the Procfile's commands, each a process that a test may kill and start again.

honcho stops everything when one process ends, so here each is started by itself, as systemd does in production.
"""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import openai
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import select
from support.leaks import plant

from cli import seed
from cli.leftovers import leftovers, shared_memory_files
from cli.services import ROOT, DevNode, Ports, Services, procfile
from engine.client import NodedClient, NodedError
from engine.noded import processes
from registry.db import SessionFactory, read_scope, session_scope
from registry.ids import now_ms
from registry.models import Group, LedgerEntry, Model, Node, Tenant, Usage
from registry.ops import nodes
from registry.ops.keys import create_key
from registry.ops.models import register_model
from registry.ops.money import top_up
from registry.ops.tenants import create_tenant
from registry.publish import publish_balances, publish_snapshot
from registry.settings import Settings, load_settings
from registry.wake import make_sender, wake_controller

T = TypeVar("T")
LINK_GBPS = 0.24
"""Each node's link: the whole of SmolLM2 (269 MB) takes 9 s, and each of its two stages 5.4 s."""
URGENT_MS = 8_000
"""A service level (ms to the first token) that a pipeline of two stages of SmolLM2 meets, and one worker does not."""
SERVING = ("pipeline", "consolidating", "standalone")
REDIS_PASSWORD = plant("Redis' password", "password-of-redis")
PROVIDER_KEY = plant("the provider's key", "sk-key-of-the-provider")


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(what: str, found: Callable[[], T | None], within_s: float = 60.0, *, every_s: float = 0.05) -> T:
    """The first result that is not None or False; AssertionError after `within_s` seconds."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        result = found()
        if result is not None and result is not False:
            return result
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {within_s:.0f} s")


class Stack:
    """All processes of the Procfile, in a directory of their own, with direct access to SQL and Redis."""

    _made = itertools.count()

    def __init__(self, home: Path, **variables: str) -> None:
        """`variables`: environment of all processes, such as DATABASE_URL."""
        self.home = home
        redis_url = f"unix://:{REDIS_PASSWORD}@{home}/redis.sock"
        given = {"HYDRANT_HOME": str(home), "REDIS_URL": redis_url, "OPENAI_API_KEY": PROVIDER_KEY}
        self._variables = given | variables
        gateway, admin, hosted = free_ports(3)
        # Below the ports that outgoing connections take, and apart for two suites on one machine, of two stacks each.
        base = 10_000 + (os.getpid() % 50 * 2 + next(self._made) % 2) * 200
        nodes = [
            DevNode("node-a", core=0, ports=(base, base + 99), link_gbps=LINK_GBPS),
            DevNode("node-b", core=1, ports=(base + 100, base + 199), link_gbps=LINK_GBPS),
        ]
        self.services = Services(home, Ports(gateway, admin, hosted), nodes)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.armed: set[str] = set()
        self.settings: Settings
        self.sessions: SessionFactory
        self.redis: Redis
        self.tenant_id = ""
        self.api_key = ""
        self._shared_before = shared_memory_files()

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every process and wait until the gateway is ready and both nodes are warm."""
        self.services.check()
        with _environment(**self._variables):
            self.settings = load_settings()
        self.sessions = seed.open_database(self.settings)
        self.redis = Redis.from_url(self.settings.redis_url.get_secret_value())
        for node in self.services.nodes:
            (self.home / f"{node.name}.toml").write_text(node.toml())
        for name in procfile():
            self.run(name)
        wait_for("Redis", self.redis_answers)
        self._seed()
        wait_for("the gateway", lambda: self.get(f"{self.services.gateway_url}/ready"), 90)
        wait_for("the admin UI", lambda: self.get(f"{self.services.admin_url}/health"), 90)
        wait_for("warm runtimes", self.nodes_warm, 120)

    def run(self, name: str, *, failpoint: str | None = None) -> None:
        """Start one of the Procfile's processes (again); with a failpoint, one that kills itself there."""
        (self.armed.add if failpoint else self.armed.discard)(name)
        armed = {"HYDRANT_FAILPOINT": failpoint} if failpoint else {}
        command = procfile()[name] + (f" --requirepass {REDIS_PASSWORD}" if name == "redis" else "")
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["sh", "-c", command],
                cwd=ROOT,
                env=self.services.environment() | self._variables | armed,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL one process, unless it has killed itself."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(timeout=10)

    def dead(self, name: str) -> bool:
        """Whether one process has ended."""
        return self.processes[name].poll() is not None

    def engine_processes(self) -> list[str]:
        """Every process that works in a stage's directory, a line each: by the kernel's word, not by ours."""
        found = []
        for node in self.services.nodes:
            stages = self.home / node.name / "stages"
            found += [f"{path.name} on {node.name}: {pids}" for path, pids in processes.under(stages).items()]
        return found

    def stop(self) -> list[str]:
        """Stop everything in order; what was left behind, a line each.

        Models have been disabled by now: an engine that still runs has lost its owner, which the sweep would hide.
        """
        orphans = self._engines_that_stay()
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            try:
                process.wait(timeout=45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                print(f"{name} did not end on SIGTERM; its log:\n{self.log_tail(name)}")
        self.processes.clear()
        self.redis.close()
        self.sessions.kw["bind"].dispose()
        for node in self.services.nodes:
            self.services.sweep(node)
        return orphans + leftovers(self.home, self.services.nodes, self._shared_before)

    def _engines_that_stay(self) -> list[str]:
        end = time.monotonic() + 30
        while (found := self.engine_processes()) and time.monotonic() < end:
            time.sleep(0.2)
        return [f"engine processes of stage {line}" for line in found]

    def log_tail(self, name: str, lines: int = 40) -> str:
        """The end of a process' log."""
        path = self.home / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def nodes_warm(self) -> bool:
        """Whether the controller knows both nodes' warm runtimes: those that run now, not ones killed a moment ago."""
        with read_scope(self.sessions) as session:
            nodes = session.scalars(select(Node)).all()
        warm = {n.report.get("warm", {}).get("pid") for n in nodes if now_ms() - n.seen_at_ms < 15_000}
        return {self.processes[name].pid for name in self.processes if name.startswith("warm-")} <= warm

    def redis_answers(self) -> bool:
        """Whether Redis is there."""
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    @staticmethod
    def get(url: str | urllib.request.Request) -> bool:
        """Whether a GET is answered with 200."""
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    # --- what tests do with it --------------------------------------------------------------------------------------

    def _seed(self) -> None:
        with session_scope(self.sessions) as session:
            tenant = create_tenant(session, "test", name="tests")
            top_up(session, "test", tenant.id, 10_000_000_000, "tests")
            pepper = self.settings.key_pepper.get_secret_value()
            _, self.api_key = create_key(session, "test", pepper, tenant_id=tenant.id, name="tests")
            self.tenant_id = tenant.id
        self.publish()

    def publish(self) -> None:
        """Give gateways what SQL says."""
        with read_scope(self.sessions) as session:
            publish_snapshot(session, self.redis, now_ms())
            publish_balances(session, self.redis, {self.tenant_id})

    def register(
        self, name: str, source: Path, *, profile: dict[str, int] | None = None, embedding: bool = False, **options: Any
    ) -> str:
        """Register a model, priced, in float32 (greedy answers are then exact however it is split); its id."""
        with session_scope(self.sessions) as session:
            model = register_model(
                session,
                "test",
                name=name,
                source=str(source),
                input_nusd=20,
                output_nusd=80,
                settings={"dtype": "float32", "context_length": 2048, "embedding": embedding},
                **{"keep_alive_mode": "fixed", **options},
            )
            model.profile = profile or dict(seed.CPU_PROFILE)
            model_id = model.id
        self.publish()
        wait_for("the model at the gateway", lambda: self._offered(name), 30)
        return model_id

    def _offered(self, name: str) -> bool:
        request = urllib.request.Request(f"{self.services.gateway_url}/v1/models/{name}")
        request.add_header("authorization", f"Bearer {self.api_key}")
        return self.get(request)

    def client(self, **options: Any) -> openai.OpenAI:
        """The unmodified SDK."""
        return openai.OpenAI(base_url=f"{self.services.gateway_url}/v1", api_key=self.api_key, **options)

    def client_of_another_tenant(self) -> openai.OpenAI:
        """The SDK with a key of a tenant that was made just now."""
        with session_scope(self.sessions) as session:
            tenant = create_tenant(session, "test", name=f"another {now_ms()}")
            top_up(session, "test", tenant.id, 1_000_000_000, "tests")
            pepper = self.settings.key_pepper.get_secret_value()
            _, key = create_key(session, "test", pepper, tenant_id=tenant.id, name="tests")
        with read_scope(self.sessions) as session:
            publish_snapshot(session, self.redis, now_ms())
            publish_balances(session, self.redis, {tenant.id})
        client = openai.OpenAI(base_url=f"{self.services.gateway_url}/v1", api_key=key, timeout=120)
        wait_for("the key at the gateway", lambda: accepted(client), 10)
        return client

    def salt(self) -> str:
        """What separates this tenant's prefix cache from others'."""
        return self.row(Tenant, self.tenant_id).salt

    def row(self, table: type[T], identity: str) -> T:
        """One row of SQL by its primary key."""
        with read_scope(self.sessions) as session:
            return session.get_one(table, identity)

    def drain(self, node: str, *, back: bool = False) -> None:
        """Ask for a node to be emptied, or let it take stages again."""
        with session_scope(self.sessions) as session:
            if back:
                nodes.uncordon(session, "test", node)
            else:
                nodes.drain(session, "test", node)

    def secrets(self) -> dict[str, str]:
        """What nobody planted and may stand in no log: the key of each group, and a part of the API key alone."""
        with read_scope(self.sessions) as session:
            found = {f"the key of {group.id}": group.api_key for group in session.scalars(select(Group))}
        return found | {"the API key's secret": self.api_key.split("-", 2)[2]}

    def groups(self, model_id: str) -> list[Group]:
        """All groups of a model, oldest first, with their stages."""
        with read_scope(self.sessions) as session:
            groups = list(
                session.scalars(select(Group).where(Group.model_id == model_id).order_by(Group.created_at_ms))
            )
            for group in groups:
                list(group.stages)
            return groups

    def group_in(self, model_id: str, *states: str) -> Group | None:
        """The newest group of a model in one of these states."""
        return next((group for group in reversed(self.groups(model_id)) if group.state in states), None)

    def routed_only_to(self, group: Group, name: str) -> bool:
        """Whether gateways are told to send new requests of the model `name` to this group and no other."""
        routes = json.loads(self.redis.hget("hyd:routes", name) or "[]")
        return [route["group_id"] for route in routes] == [group.id]

    def end(self, *model_ids: str, within_s: float = 90) -> None:
        """Disable models and wait until nothing of them runs.

        The controller is asked to look more often than its clock would make it: tests wait for that elsewhere.
        """
        for model_id in model_ids:
            self.set_model(model_id, enabled=False)
        with make_sender(self.settings.redis_url.get_secret_value(), timeout_s=5) as sender:

            def ended() -> bool:
                wake_controller(sender)
                return all(self.all_over(model_id) for model_id in model_ids)

            wait_for("the end of the models' groups", ended, within_s, every_s=0.25)

    def all_over(self, model_id: str) -> bool:
        """Whether no process of the model is left, by the controller's and the nodes' word."""
        groups = self.groups(model_id)
        if any(group.state not in ("stopped", "failed") for group in groups):
            return False
        return all(stage.state in ("gone", "failed", "planned") for group in groups for stage in group.stages)

    def noded(self, node: str) -> NodedClient:
        """A client of one node's noded."""
        return NodedClient.for_node(self.home, node)

    def evict_all(self) -> None:
        """Empty both nodes' host memory of weights that no stage uses."""
        for node in self.services.nodes:
            effect = {"v": 1, "kind": "evict", "group_id": "", "version": 0, "digests": None}
            self.noded(node.name).apply(effect)

        def empty() -> bool:
            with read_scope(self.sessions) as session:
                return all(not n.report["store"]["digests"] for n in session.scalars(select(Node)))

        wait_for("empty stores in SQL", empty)

    def counters(self, group: Group) -> dict[str, int] | None:
        """The engine's own token counters, or None when it can no longer be asked."""
        try:
            return self.noded(group.stages[0].node_name).counters(group.id)
        except NodedError:
            return None

    def usage(self, model_id: str) -> list[Usage]:
        """Settled usage of a model."""
        with read_scope(self.sessions) as session:
            return list(session.scalars(select(Usage).where(Usage.model_id == model_id).order_by(Usage.started_at_ms)))

    def settled(self, model_id: str, attempts: int) -> list[Usage]:
        """Usage once at least this many attempts are settled."""
        return wait_for(
            f"{attempts} settled attempts",
            lambda: rows if len(rows := self.usage(model_id)) >= attempts else None,
            30,
        )

    def balance_books(self, within_s: float = 60) -> None:
        """Wait until ledger, usage, and balance and reservations in Redis say the same, with no attempt open."""
        end = time.monotonic() + within_s
        while (wrong := self._wrong_in_books()) and time.monotonic() < end:
            time.sleep(0.05)
        assert not wrong, wrong

    def _wrong_in_books(self) -> dict[str, object]:
        with read_scope(self.sessions) as session:
            ledger = session.scalars(select(LedgerEntry).where(LedgerEntry.tenant_id == self.tenant_id)).all()
            usage = session.scalars(select(Usage).where(Usage.tenant_id == self.tenant_id)).all()
        charged = -sum(entry.amount_nusd for entry in ledger if entry.kind == "settle")
        balance = sum(entry.amount_nusd for entry in ledger)
        pairs = {
            "charged in ledger, usage": (charged, sum(row.cost_nusd for row in usage)),
            "balance in Redis, SQL": (int(self.redis.hget("hyd:balance", self.tenant_id) or 0), balance),
            "reserved": (int(self.redis.hget("hyd:reserved", self.tenant_id) or 0), 0),
            "open attempts": (list(self.redis.hvals("hyd:attempts")), []),
            "unsettled events": (self.redis.xlen("hyd:usage"), 0),
        }
        return {what: pair for what, pair in pairs.items() if pair[0] != pair[1]}

    def rows_of(self, request_id: str) -> list[Usage]:
        """Settled usage of one request: a row an attempt."""
        with read_scope(self.sessions) as session:
            return list(session.scalars(select(Usage).where(Usage.request_id == request_id)))

    def set_model(self, model_id: str, **columns: Any) -> None:
        """Change columns of a model directly."""
        with session_scope(self.sessions) as session:
            model = session.get_one(Model, model_id)
            for name, value in columns.items():
                setattr(model, name, value)
            model.updated_at_ms = now_ms()
        self.publish()


def accepted(client: openai.OpenAI) -> bool:
    """Whether the gateway takes the client's key."""
    try:
        client.models.list()
    except openai.AuthenticationError:
        return False
    return True


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
