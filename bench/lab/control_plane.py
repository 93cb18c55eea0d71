"""Hydrant's control plane in the lab: the Procfile's commands, with Redis over TCP and a node worker on every node.

SQL is read and written here directly, as the CLI and the admin UI do on the machine that runs them.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import delete, select, update

from bench.lab.lab import Lab
from bench.lab.network import CONTROL
from bench.lab.node import ROOT
from bench.lab.tools import LabError
from cli.services import procfile
from registry.db import SessionFactory, make_engine, make_session_factory, read_scope, session_scope
from registry.ids import now_ms
from registry.migrate import upgrade
from registry.models import Calibration, ColdStart, ColdStartEvent, Group, Model, Node, Stage, StartObservation
from registry.ops.keys import create_key
from registry.ops.models import register_model, set_enabled
from registry.ops.money import top_up
from registry.ops.tenants import create_tenant
from registry.publish import publish_balances, publish_snapshot
from registry.settings import Settings, load_settings
from registry.sources import inspect_source
from registry.wake import make_sender, wake_controller

ACTOR = "bench"
GATEWAY_PORT = 8400
REDIS_PORT = 6379
START_S = 60.0
PROCESSES = ("gateway", "controller", "ledger", "beat")
"""Of the Procfile, on the control host. Redis listens to the network here, and no page is needed."""
WORKER = "worker-a"
"""Of the Procfile: what runs on every node."""


class ControlPlane:
    """See the module. `url` is the gateway's, `api_key` a tenant's with money enough."""

    def __init__(self, lab: Lab) -> None:
        """Open SQL and Redis; nothing decides anything before `start`. Raises LabError."""
        self._lab = lab
        self._home = lab.network.home(CONTROL)
        address = lab.addresses[CONTROL]
        gateway, self._redis_port = (lab.network.port(CONTROL, port) for port in (GATEWAY_PORT, REDIS_PORT))
        self.url = f"http://{address}:{gateway}"
        self._redis_socket = self._home / "redis.sock"
        self._environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {
            "HYDRANT_HOME": str(self._home),
            "HYDRANT_GATEWAY_HOST": address,
            "HYDRANT_GATEWAY_PORT": str(gateway),
            "HYDRANT_HOLD_DEADLINE_S": "300",
            "REDIS_URL": f"redis://{address}:{self._redis_port}/0",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._start_redis(address)
        self.settings = self._load_settings()
        engine = make_engine(self.settings.database_url.get_secret_value())
        upgrade(engine)
        self.sessions: SessionFactory = make_session_factory(engine)
        self.redis = Redis.from_url(f"unix://{self._redis_socket}")
        self.wait(self._redis_answers, "Redis")
        self._tenant_id, self.api_key = self._make_tenant()

    def start(self) -> None:
        """Start gateway, controller, ledger, node workers; wait until they know each other. Raises LabError."""
        commands = procfile()
        for name in PROCESSES:
            self._processes[name] = self._start(CONTROL, name, commands[name], self._environ)
        for name, node in self._lab.nodes.items():
            environ = node.environ | {"REDIS_URL": self._environ["REDIS_URL"]}
            command = commands[WORKER].replace("node-a", name)
            self._processes[f"worker on {name}"] = self._start(name, "worker", command, environ)
        self.wait(lambda: len(self._nodes()) == len(self._lab.nodes), "every node's first report")
        self.wait(lambda: bool(self.redis.hlen("hyd:gateways")), "the gateway's first heartbeat")

    def _start_redis(self, address: str) -> None:
        # The namespace is the wall that a password would be: nothing outside the lab can connect. (On 127.0.0.1, where
        # there is no namespace, other users of the machine can, and find nothing but the benchmark's figures.)
        options = f"--bind {address} --port {self._redis_port} --protected-mode no"
        command = procfile()["redis"].replace("--port 0", options)
        self._processes["redis"] = self._start(CONTROL, "redis", command, self._environ)

    def _start(self, host: str, name: str, command: str, environ: dict[str, str]) -> subprocess.Popen[bytes]:
        log = self._lab.network.home(host) / f"{name}.log"
        return self._lab.network.start(host, ["sh", "-c", command], env=environ, cwd=ROOT, log=log)

    def _load_settings(self) -> Settings:
        """As the processes of this control plane see them, but for Redis, which this one reaches by its socket."""
        before = dict(os.environ)
        os.environ.update(self._environ)
        try:
            return load_settings()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _make_tenant(self) -> tuple[str, str]:
        with session_scope(self.sessions) as session:
            tenant = create_tenant(session, ACTOR, name="bench")
            top_up(session, ACTOR, tenant.id, 10**15, "bench")
            pepper = self.settings.key_pepper.get_secret_value()
            _, key = create_key(session, ACTOR, pepper, tenant_id=tenant.id, name="bench")
            return tenant.id, key

    # --- models -----------------------------------------------------------------------------------------------------

    def register(self, name: str, folder: Path, url: str, **options: Any) -> str:
        """Register the model at `url`, whose files lie in `folder` on this machine; its id.

        Digests are taken from `folder`: this process is in no host of the lab and cannot read the URL.
        """
        manifest = inspect_source(str(folder))
        with session_scope(self.sessions) as session:
            model = register_model(
                session,
                ACTOR,
                name=name,
                source=str(folder),
                manifest=manifest,
                input_nusd=20,
                output_nusd=80,
                settings={"dtype": "float32", "context_length": 2048},
                keep_alive_mode="fixed",
                **options,
            )
            model.source = url
            model_id: str = model.id
        self.publish()
        return model_id

    def model(self, model_id: str) -> Model:
        """A model's row, whole."""
        with read_scope(self.sessions) as session:
            row = session.get_one(Model, model_id)
            _ = row.manifest, row.profile
            return row

    def set_model(self, model_id: str, **columns: Any) -> None:
        """Change columns of a model."""
        with session_scope(self.sessions) as session:
            model = session.get_one(Model, model_id)
            for name, value in columns.items():
                setattr(model, name, value)
            model.updated_at_ms = now_ms()
        self.publish()

    def forget_learnt(self) -> None:
        """Nothing is known of what starts have taken: the planner goes by what it is told of a model."""
        with session_scope(self.sessions) as session:
            session.execute(update(ColdStart).values(studied_at_ms=now_ms()))
            for table in (StartObservation, Calibration):
                session.execute(delete(table))

    def publish(self) -> None:
        """Give the gateway what SQL says."""
        with read_scope(self.sessions) as session:
            publish_snapshot(session, self.redis, now_ms(), hold=self.settings.hold)
            publish_balances(session, self.redis, {self._tenant_id})

    def use_nodes(self, names: Collection[str]) -> None:
        """New stages go to these nodes only."""
        with session_scope(self.sessions) as session:
            for node in session.scalars(select(Node)):
                node.cordoned = node.name not in names

    def stop_model(self, model_id: str) -> None:
        """End every process of the model and wait for it. Raises LabError."""
        for enabled in (False, True):
            with session_scope(self.sessions) as session:
                set_enabled(session, ACTOR, model_id, enabled)
            self.publish()
            if not enabled:
                self.wake()
                self.wait(lambda: self._is_over(model_id), "the model's processes to end")

    def wake(self) -> None:
        """Have the controller look at SQL now and not at its next tick."""
        sender = make_sender(f"unix://{self._redis_socket}", timeout_s=5)
        wake_controller(sender)
        sender.close()

    def _is_over(self, model_id: str) -> bool:
        with read_scope(self.sessions) as session:
            groups = session.scalars(select(Group).where(Group.model_id == model_id)).all()
            stages = [stage for group in groups for stage in group.stages]
            return all(group.state in ("stopped", "failed") for group in groups) and all(
                stage.state in ("gone", "failed", "planned") for stage in stages
            )

    # --- what happened ----------------------------------------------------------------------------------------------

    def last_start(self, model_id: str) -> tuple[ColdStart, list[Stage], list[ColdStartEvent]]:
        """The model's last start for a request: with its stages by rank, and its timed steps. Raises LabError."""
        with read_scope(self.sessions) as session:
            start = session.scalars(
                select(ColdStart)
                .where(ColdStart.model_id == model_id, ColdStart.cause == "demand")
                .order_by(ColdStart.requested_at_ms.desc())
                .limit(1)
            ).first()
            if start is None:
                raise LabError("the request started nothing: a worker still served it")
            stages = session.scalars(
                select(Stage).join(Group).where(Group.cold_start_id == start.id).order_by(Stage.rank)
            ).all()
            return start, list(stages), list(start.events)

    def heir(self, model_id: str) -> Stage | None:
        """The single worker that has replaced the model's pipeline; None until it serves."""
        with read_scope(self.sessions) as session:
            return session.scalars(
                select(Stage)
                .join(Group)
                .where(Group.model_id == model_id, Group.parent_id.is_not(None), Group.state == "standalone")
                .order_by(Group.created_at_ms.desc())
            ).first()

    def digests_held(self) -> dict[str, int]:
        """Tensors that each node holds in host memory, as the controller knows it."""
        return {node.name: len(node.report["store"]["digests"]) for node in self._nodes()}

    def warm_nodes(self) -> set[str]:
        """Nodes whose warm runtime the controller knows of."""
        return {node.name for node in self._nodes() if node.report.get("warm", {}).get("ready")}

    def _nodes(self) -> list[Node]:
        with read_scope(self.sessions) as session:
            return list(session.scalars(select(Node)))

    def _redis_answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def wait(self, ready: Callable[[], bool], what: str, within_s: float = START_S) -> None:
        """Wait until `ready()`. Raises LabError when a process ends or the time is over."""
        deadline = time.monotonic() + within_s
        while not ready():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                why = f"{ended[0]} has ended" if ended else f"not within {within_s:.0f} s"
                raise LabError(f"waited for {what}: {why}\n{self.logs()}")
            time.sleep(0.02)

    def logs(self) -> str:
        """The ends of the control plane's logs, for a message about a failure."""
        found = sorted(self._home.glob("*.log"))
        return "\n".join(f"--- {path}\n" + "\n".join(path.read_text().splitlines()[-10:]) for path in found)

    def close(self) -> None:
        """Let go of SQL and Redis; the processes end with the lab."""
        self.redis.close()
        self.sessions.kw["bind"].dispose()
