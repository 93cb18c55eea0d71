"""Real Celery workers and beat as the Procfile runs them, nodeds without engines, and processes killed in between."""

from __future__ import annotations

import json
import threading

import pytest
from redis import Redis
from sqlalchemy import func, select
from support.celery_processes import processes, wait_until
from support.databases import postgres_server
from support.fake_gateways import FakeGateway
from support.fake_noded import FakeNoded
from support.registry_rows import USAGE_EVENT_COST_NUSD, add_model, add_tenant, current_price, usage_event
from support.watching import watched

from registry.db import make_engine, make_session_factory, session_scope
from registry.ids import now_ms
from registry.models import Base, Group, Model, Outbox, Usage
from registry.ops.money import balance_nusd, top_up
from registry.publish import publish_snapshot

__all__ = ["postgres_server"]

SECONDS = 40.0
NODES = ("n0", "n1")


class Cluster:
    """Database, Redis, two nodeds, a gateway that keeps its heartbeat, and the processes that a test starts."""

    def __init__(self, procs, redis, sessions) -> None:
        self.procs = procs
        self.redis = redis
        self.sessions = sessions
        self.nodes = {
            name: FakeNoded(name, procs.home / name / "noded.sock", first_port=31000 + 100 * i).start()
            for i, name in enumerate(NODES)
        }
        self.gateway = FakeGateway(redis)
        self.demand: dict[str, dict] = {}
        self._ended = threading.Event()
        self._pulse = threading.Thread(target=self._beat_on, daemon=True)

    def start(self, *, beat: bool = True, **controller) -> None:
        """Everything but the ledger, at once."""
        watched(self.redis)
        started = [self.procs.controller(**controller), *(self.procs.node(name) for name in NODES)]
        if beat:
            started.append(self.procs.beat())
        for process in started:
            process.wait_ready()
        wait_until(lambda: len(self._nodes_known()) == len(NODES), SECONDS, self.told)
        self._pulse.start()

    def end(self) -> None:
        self._ended.set()
        if self._pulse.is_alive():
            self._pulse.join(5)
        for node in self.nodes.values():
            node.stop()

    def send(self, task: str, *args, queue: str) -> None:
        from tasks.app import make_app

        with make_app(f"unix://{self.redis.connection_pool.connection_kwargs['path']}", None) as app:
            app.send_task(task, args=list(args), queue=queue)

    def want(self, model: str, **activity) -> None:
        """Demand as the gateway tells it from now on, with its hint to the controller."""
        self.demand[model] = activity
        self.gateway.activity(model, **activity)
        self.send("control.scale", model, queue="control")

    def states(self) -> list[str]:
        with self.sessions() as session:
            return list(session.scalars(select(Group.state).order_by(Group.created_at_ms, Group.id)))

    def until(self, *states: str) -> None:
        wait_until(lambda: self.states() == list(states), SECONDS, self.told)

    def group(self, at: int = -1) -> Group:
        with self.sessions() as session:
            return list(session.scalars(select(Group).order_by(Group.created_at_ms, Group.id)))[at]

    def change_model(self, **changes) -> None:
        with session_scope(self.sessions) as session:
            for column, value in changes.items():
                setattr(session.scalars(select(Model)).one(), column, value)

    def told(self) -> str:
        with self.sessions() as session:
            outbox = [(row.kind, row.sends, row.done_at_ms, row.error) for row in session.scalars(select(Outbox))]
        logs = "\n".join(f"--- {process.name}\n{process.output[-1500:]}" for process in self.procs.all)
        return f"groups: {self.states()}\noutbox: {outbox}\nnodes: {[n.stages() for n in self.nodes.values()]}\n{logs}"

    def _nodes_known(self):
        from registry.models import Node

        with self.sessions() as session:
            return session.scalars(select(Node.name)).all()

    def _beat_on(self) -> None:
        while not self._ended.wait(0.2):
            self.gateway.beat()
            for model, activity in list(self.demand.items()):
                self.gateway.activity(model, **activity)


@pytest.fixture
def cluster(redis_server, tmp_path):
    """On SQLite."""
    yield from _cluster(redis_server, f"sqlite:///{tmp_path}/hydrant.db")


@pytest.fixture
def postgres_cluster(redis_server, postgres_server):
    """On Postgres."""
    with postgres_server.new_schema() as url:
        yield from _cluster(redis_server, url)


def _cluster(redis_server, url):
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    sessions = make_session_factory(engine)
    with processes(redis_server.url, url) as procs, Redis.from_url(redis_server.url) as redis:
        made = Cluster(procs, redis, sessions)
        try:
            yield made
        finally:
            # Processes first: a node's worker that loses its noded says so at length.
            procs.end()
            made.end()
            engine.dispose()


def with_model(cluster: Cluster, **options) -> None:
    with session_scope(cluster.sessions) as session:
        add_model(session, "m", **options)
    with session_scope(cluster.sessions) as session:
        publish_snapshot(session, cluster.redis, now_ms())


def test_from_the_first_request_to_zero_again(cluster):
    with_model(cluster, slo_ttft_ms=5500)
    for node in cluster.nodes.values():
        node.lives.extend(["ready", "hold"])
    cluster.start()
    cluster.want("m", waiting=1)
    cluster.until("consolidating", "starting")
    pipeline, heir = cluster.group(0), cluster.group(1)
    wait_until(lambda: [r["group_id"] for r in cluster.gateway.routes("m")] == [pipeline.id], SECONDS, cluster.told)

    cluster.demand["m"] = {"groups": {pipeline.id: 1}}

    def heirs_stages():
        return [s for node in cluster.nodes.values() for s in node.stages() if s["group_id"] == heir.id]

    # It is decided; its effects may still be on their way to its node.
    wait_until(lambda: any(s["state"] != "fetching" for s in heirs_stages()), SECONDS, cluster.told)
    for node in cluster.nodes.values():
        node.set_state("ready", only=[heir.id])
    cluster.until("draining", "standalone")
    wait_until(lambda: [r["group_id"] for r in cluster.gateway.routes("m")] == [heir.id], SECONDS, cluster.told)
    assert sum(len(node.stages("ready")) for node in cluster.nodes.values()) == 3, "the pipeline still runs a request"

    cluster.demand["m"] = {"groups": {heir.id: 1}}
    cluster.until("stopped", "standalone")
    assert sum(len(node.stages("ready")) for node in cluster.nodes.values()) == 1

    cluster.demand["m"] = {}
    cluster.change_model(keep_alive_s=0)
    cluster.until("stopped", "stopped")
    wait_until(lambda: not cluster.gateway.routes("m"), SECONDS, cluster.told)
    assert all(node.stages("ready", "loading", "starting", "fetching") == [] for node in cluster.nodes.values())

    for process in cluster.procs.all:
        process.process.terminate()
    for process in cluster.procs.all:
        # Asked once: a second signal would find an interpreter that is just ending, and kill it.
        process.process.wait(SECONDS)
        assert process.process.returncode == 0, f"{process.name} did not end in order: {process.output[-2000:]}"


def test_nodeds_that_were_away_a_killed_node_worker_and_a_wiped_redis(cluster):
    with_model(cluster)
    cluster.start()
    for node in cluster.nodes.values():
        node.stop()
    cluster.want("m", waiting=1)
    cluster.until("starting")
    # Nobody answers: the effects stay in the outbox.
    wait_until(lambda: "noded is away" in cluster.told(), SECONDS, cluster.told)
    for node in cluster.nodes.values():
        node.start()
    make_due(cluster)
    cluster.until("standalone")

    # The worker of its node is killed; what happens meanwhile is heard from its successor.
    group = cluster.group()
    with cluster.sessions() as session:
        (node_name,) = session.scalars(select(Group).where(Group.id == group.id)).one().stages[0].node_name.split()
    worker = next(process for process in cluster.procs.all if process.name == node_name)
    worker.kill()
    cluster.nodes[node_name].set_state("failed", reason="killed by signal 9")
    cluster.demand["m"] = {}
    cluster.procs.node(node_name).wait_ready()
    cluster.until("failed")
    assert "signal 9" in cluster.group().reason

    # Redis loses everything, and the next request is served all the same.
    cluster.want("m", waiting=1)
    cluster.until("failed", "standalone")
    (route,) = wait_until(lambda: cluster.gateway.routes("m"), SECONDS, cluster.told)
    cluster.demand["m"] = {"groups": {route["group_id"]: 1}}
    cluster.redis.flushall()
    assert wait_until(lambda: cluster.gateway.routes("m"), SECONDS, cluster.told) == [route]
    assert cluster.states() == ["failed", "standalone"]


def make_due(cluster: Cluster) -> None:
    """What was sent is due to be sent again."""
    with session_scope(cluster.sessions) as session:
        for row in session.scalars(select(Outbox).where(Outbox.done_at_ms.is_(None))):
            row.sent_at_ms = 0


def test_a_controller_killed_half_way_is_carried_on_by_the_next(cluster):
    with_model(cluster)
    early = cluster.procs.node("n0").wait_ready()
    dying = cluster.procs.controller(failpoint="control.decided")
    cluster.gateway.activity("m", waiting=1)
    dying.wait_killed()
    assert cluster.states() == ["starting"], "it died after the commit"
    with cluster.sessions() as session:
        assert [row.sends for row in session.scalars(select(Outbox))] == [0, 0]
    # The next one dies when it has sent the effects and not yet noted that it has.
    dying = cluster.procs.controller(failpoint="control.sent")
    cluster.send("control.reconcile", queue="control")
    dying.wait_killed()
    early.stop()
    cluster.start()
    cluster.want("m", waiting=1)
    cluster.until("standalone")


@pytest.mark.parametrize("point", ["node.applied", "node.applied:2"])
def test_a_node_worker_killed_before_its_answer_starts_nothing_twice(cluster, point):
    with_model(cluster)
    controller = cluster.procs.controller().wait_ready()
    dying = cluster.procs.node("n0", failpoint=point).wait_ready()
    wait_until(cluster._nodes_known, SECONDS, cluster.told)
    noded = cluster.nodes["n0"]
    # Else the worker may still report that the stage is ready, between noded's answer and its own death.
    noded.lives.append("hold")
    cluster.want("m", waiting=1)
    dying.wait_killed()
    assert len(noded.effects) >= (1 if point == "node.applied" else 2), "noded has done it"
    assert cluster.states() == ["starting"], "and nobody was told"
    controller.stop()
    cluster.start()
    make_due(cluster)
    wait_until(lambda: noded.stages("loading", "ready"), SECONDS, cluster.told)
    noded.set_state("ready")
    cluster.until("standalone")
    assert len(noded.stages()) == 1
    wait_until(lambda: len(cluster.gateway.routes("m")) == 1, SECONDS, cluster.told)


def test_a_controller_killed_when_it_has_stored_a_report_is_carried_on_by_the_next(cluster):
    with_model(cluster)
    dying = cluster.procs.controller(failpoint="control.reported")
    early = cluster.procs.node("n0").wait_ready()
    dying.wait_killed()
    assert cluster._nodes_known() == ["n0"]
    early.stop()
    cluster.start()
    cluster.want("m", waiting=1)
    cluster.until("standalone")


def test_two_controllers_on_postgres_start_one_group_and_bring_it_up(postgres_cluster):
    cluster = postgres_cluster
    with_model(cluster)
    second = cluster.procs.controller(name="controller-2")
    cluster.start()
    second.wait_ready()
    cluster.demand["m"] = {"waiting": 1}
    cluster.gateway.activity("m", waiting=1)
    for _ in range(20):
        cluster.send("control.scale", "m", queue="control")
    cluster.until("standalone")
    # Both may send an effect before either has noted that it is sent; the same effect again changes nothing.
    launches = [effect for node in cluster.nodes.values() for effect in node.effects if effect["kind"] == "launch"]
    assert len({effect["stage_id"] for effect in launches}) == 1
    assert sum(len(node.stages()) for node in cluster.nodes.values()) == 1


# --- the ledger -------------------------------------------------------------------------------------------------------

PAID_IN = 10_000_000


@pytest.mark.parametrize("point", ["ledger.committed", "ledger.settled"])
def test_a_ledger_killed_between_its_commit_and_its_acknowledgement_bills_once(cluster, point):
    with session_scope(cluster.sessions) as session:
        tenant, model = add_tenant(session), add_model(session)
        price = current_price(session, model)
        top_up(session, "tester", tenant.id, PAID_IN, "test")
    events = [usage_event(tenant, model, price) for _ in range(3)]
    for event in events:
        cluster.redis.hset("hyd:attempts", event["attempt_id"], json.dumps(event))
        cluster.redis.hincrby("hyd:reserved", tenant.id, event["reserved_nusd"])
        cluster.redis.xadd("hyd:usage", {"event": json.dumps(event)})
    dying = cluster.procs.ledger(failpoint=point)
    dying.wait_ready()
    cluster.send("ledger.drain", queue="ledger")
    dying.wait_killed()
    with cluster.sessions() as session:
        assert session.scalar(select(func.count()).select_from(Usage)) == 3, "the commit was made"
    assert cluster.redis.xlen("hyd:usage") == 3, "the acknowledgement was not"

    cluster.procs.ledger().wait_ready()
    cluster.send("ledger.drain", queue="ledger")
    wait_until(lambda: cluster.redis.xlen("hyd:usage") == 0, SECONDS, cluster.told)
    with cluster.sessions() as session:
        assert balance_nusd(session, tenant.id) == PAID_IN - 3 * USAGE_EVENT_COST_NUSD
        assert session.scalar(select(func.count()).select_from(Usage)) == 3
    assert int(cluster.redis.hget("hyd:balance", tenant.id)) == PAID_IN - 3 * USAGE_EVENT_COST_NUSD
    assert cluster.redis.hgetall("hyd:attempts") == {}
    assert cluster.redis.hgetall("hyd:reserved") == {}
