"""The controller on a real database and Redis: state, outbox, routes; messages lost, doubled and out of order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select
from support.control_bench import count_runs, kinds, serving
from support.fake_noded import FakeNoded
from support.watching import watched

from orchestrator.why import Why, WhyCode
from registry.db import session_scope
from registry.ids import now_ms
from registry.models import ColdStart, ColdStartEvent, Group, Model, Node, Stage
from registry.store_origin import origin
from tasks.demand import read_demand
from tasks.state import load_state

# --- the way of one cold request --------------------------------------------------------------------------------------


def test_a_cold_start_on_demand_is_part_of_the_trace_of_who_waits(bench) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    bench.add_model("m")
    bench.gateway.activity("m", waiting=1, traceparent=traceparent)
    bench.settle()
    with session_scope(bench.here.sessions) as session:
        assert [start.traceparent for start in session.scalars(select(ColdStart))] == [traceparent]


def test_demand_starts_a_worker_and_publishes_its_route_only_when_it_has_answered(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    assert bench.states() == ["starting"]
    assert bench.gateway.cold_start("m")["state"] == "starting"
    answers = {name: node.probe_answer for name, node in bench.nodes.items()}
    for node in bench.nodes.values():
        node.probe_answer = None
    bench.deliver()
    bench.report()
    assert bench.gateway.routes("m") == [], "ready, but no token has come"
    for name, node in bench.nodes.items():
        node.probe_answer = answers[name]
    bench.report()
    (group,) = bench.groups()
    (route,) = bench.gateway.routes("m")
    assert route == {
        "group_id": group.id,
        "url": f"http://127.0.0.1:{group.stages[0].port}",
        "api_key": group.api_key,
        "state": "standalone",
        "cold_start_id": group.cold_start_id,
        "started_at_ms": group.ready_at_ms,
        "prefer": 2,
        "capacity": 8,
    }
    assert bench.gateway.cold_start("m") is None


def test_a_start_whose_probe_an_earlier_version_asked_for_goes_on(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    with session_scope(bench.here.sessions) as session:
        session.scalars(select(Group)).one().probe = {"sent_at_ms": 1}
    bench.settle()
    assert bench.states() == ["standalone"]


@pytest.mark.parametrize(("policy", "stages"), [("hydrant", 2), ("serverless-vllm", 1)])
def test_a_start_is_laid_out_by_the_policy_of_the_settings(bench, policy, stages):
    bench.here = replace(bench.here, settings=bench.here.settings.model_copy(update={"policy": policy}))
    bench.add_model(split=True)
    bench.gateway.activity("m", waiting=1)
    bench.run()
    (group,) = bench.groups()
    assert len(group.stages) == stages


def test_both_effects_of_every_stage_leave_at_once(bench):
    bench.add_model(split=True)
    bench.gateway.activity("m", waiting=1)
    bench.run()
    (group,) = bench.groups()
    sent = {name: bench.messages(f"node.{name}") for name in bench.nodes}
    assert {name: kinds(messages) for name, messages in sent.items()} == {
        "n0": ["prefetch", "launch"],
        "n1": ["prefetch", "launch"],
    }
    launches = [messages[1]["args"][1] for messages in sent.values()]
    assert sorted(launch["rank"] for launch in launches) == [0, 1]
    assert {launch["world"] for launch in launches} == {2}
    assert {tuple(launch["layers"]) for launch in launches} == {tuple(stage.layer_count for stage in group.stages)}
    # All ranks meet at the first rank's node, on a port that nobody listens on.
    (meeting,) = {launch["dist_address"] for launch in launches}
    assert meeting == f"127.0.0.1:{group.stages[0].dist_port}"
    ports = [stage.port for stage in group.stages if stage.node_name == group.stages[0].node_name]
    assert group.stages[0].dist_port not in ports
    assert len({launch["api_key"] for launch in launches}) == 1
    names = [tensor["name"] for messages in sent.values() for tensor in messages[0]["args"][1]["tensors"]]
    assert len(names) == len(set(names)), "no tensor is fetched twice"


def test_a_pipeline_serves_is_consolidated_and_scaled_to_zero(bench):
    bench.add_model(split=True, keep_alive_s=60)
    bench.gateway.activity("m", waiting=1)
    for node in bench.nodes.values():
        node.lives.extend(["ready", "hold"])
    bench.settle()
    assert bench.states() == ["consolidating", "starting"]
    pipeline, standalone = bench.groups()
    assert standalone.parent_id == pipeline.id
    assert [route["group_id"] for route in bench.gateway.routes("m")] == [pipeline.id]
    assert bench.fetched_in_background() == {pipeline.id: False, standalone.id: True}

    bench.gateway.activity("m", groups={pipeline.id: 1})
    for node in bench.nodes.values():
        node.set_state("ready", only=[standalone.id])
    bench.settle()
    assert bench.states() == ["draining", "standalone"], "a request still runs on the pipeline"
    assert [route["group_id"] for route in bench.gateway.routes("m")] == [standalone.id]

    bench.gateway.activity("m", groups={standalone.id: 1})
    bench.settle()
    assert bench.states() == ["stopped", "standalone"]
    assert [len(node.stages("ready")) for node in bench.nodes.values()].count(1) == 1

    bench.gateway.activity("m", last_request_at_ms=0)
    bench.age_groups(120_000)
    bench.settle()
    assert bench.states() == ["stopped", "stopped"]
    assert bench.gateway.routes("m") == []
    assert all(not node.stages("ready", "loading") for node in bench.nodes.values())


def test_a_cold_start_can_be_drawn_from_sql(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.settle()
    with bench.here.sessions() as session:
        (cold_start,) = session.scalars(select(ColdStart)).all()
        assert cold_start.ready_at_ms >= cold_start.requested_at_ms
        assert cold_start.predicted_ttft_ms > 0
        steps = set(session.scalars(select(ColdStartEvent.kind)))
    assert {"planned", "queued", "prefetch_start", "prefetch_end", "fork", "ready"} <= steps


def test_a_second_pass_without_news_changes_nothing(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    rows, version = len(bench.outbox()), bench.redis.get("hyd:routes:version")
    for _ in range(3):
        bench.run()
    assert (len(bench.outbox()), bench.redis.get("hyd:routes:version")) == (rows, version)
    assert bench.states() == ["starting"]


# --- draining ---------------------------------------------------------------------------------------------------------


def test_a_worker_is_stopped_only_when_every_live_gateway_has_seen_routes_without_it(bench):
    group = serving(bench)
    bench.gateway.beat()
    bench.gateway.activity("m")
    bench.change_model(enabled=False)
    bench.run()
    assert bench.states() == ["draining"]
    assert bench.messages(f"node.{group.stages[0].node_name}") == []
    bench.gateway.beat()
    bench.run()
    assert kinds(bench.messages(f"node.{group.stages[0].node_name}")) == ["stop"]


def test_a_gateway_that_died_holds_nothing_up(bench):
    group = serving(bench)
    bench.gateway.activity("m", age_ms=10_001, groups={group.id: 1})
    bench.gateway.beat(routes_version=1, age_ms=10_001)
    bench.change_model(enabled=False)
    bench.run()
    assert kinds(bench.messages(f"node.{group.stages[0].node_name}")) == ["stop"]


def test_a_stalled_gateways_requests_still_count_as_running(bench):
    group = serving(bench)
    bench.gateway.activity("m", age_ms=7000, groups={group.id: 1})
    bench.change_model(enabled=False)
    bench.run()
    bench.gateway.beat()
    bench.run()
    assert bench.messages(f"node.{group.stages[0].node_name}") == []


def test_a_wiped_redis_gets_its_routes_back_and_stops_no_busy_worker(bench):
    group = serving(bench)
    (route,) = bench.gateway.routes("m")
    before = int(bench.redis.get("hyd:routes:version"))
    bench.change_model(keep_alive_s=0)
    bench.redis.flushall()
    for _ in range(3):
        bench.run()
    assert bench.states() == ["standalone"]
    assert bench.gateway.routes("m") == [route]
    assert int(bench.redis.get("hyd:routes:version")) > before, "gateways must see that something is new"
    assert group.id == route["group_id"]


def test_the_idle_clock_outlives_redis(bench):
    serving(bench, keep_alive_s=60)
    bench.age_groups(600_000)
    bench.gateway.activity("m")
    bench.run()
    bench.redis.flushall()
    watched(bench.redis)
    bench.run()
    assert bench.states() == ["standalone"], "asked for a moment ago, and ready for ten minutes"


def test_a_redis_wiped_while_a_worker_drains_does_not_cut_its_requests(bench):
    group = serving(bench)
    bench.gateway.beat()
    bench.change_model(enabled=False)
    bench.run()
    bench.redis.flushall()
    bench.run()
    bench.gateway.beat()
    bench.run()
    assert bench.states() == ["draining"]
    assert bench.messages(f"node.{group.stages[0].node_name}") == []


# --- the outbox -------------------------------------------------------------------------------------------------------


def test_effects_that_were_lost_are_sent_again(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    (group,) = bench.groups()
    queue = f"node.{group.stages[0].node_name}"
    assert len(bench.messages(queue)) == 2, "taken by a worker that dies with them"
    bench.run()
    assert bench.messages(queue) == [], "not at once: they may be on their way"
    bench.age_outbox(11_000)
    bench.run()
    assert kinds(bench.messages(queue)) == ["prefetch", "launch"]
    assert [row.sends for row in bench.outbox()] == [2, 2]


def test_effects_are_kept_for_a_broker_that_is_away(bench, redis_server, monkeypatch):
    from kombu.exceptions import OperationalError

    def refuse(*_args, **_options):
        raise OperationalError("connection refused")

    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    from tasks import control

    with monkeypatch.context() as patch:
        patch.setattr(control.app, "send_task", refuse)
        bench.run()
    assert [(row.sent_at_ms, row.sends) for row in bench.outbox()] == [(None, 0), (None, 0)]
    bench.settle()
    assert bench.states() == ["standalone"]


def test_doubled_effects_and_answers_change_nothing(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    (group,) = bench.groups()
    node = bench.nodes[group.stages[0].node_name]
    for message in bench.messages(f"node.{node.name}") * 2:
        bench.carry_out(node, message)
    bench.settle()
    assert bench.states() == ["standalone"]
    assert len(node.stages()) == 1


def test_what_was_sent_for_a_stopped_group_is_refused_as_stale_and_settles(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    (group,) = bench.groups()
    node = bench.nodes[group.stages[0].node_name]
    late = bench.messages(f"node.{node.name}")
    bench.change_model(enabled=False)
    bench.settle()
    assert bench.states() == ["stopped"]
    for message in late:
        bench.carry_out(node, message)
    assert [effect["kind"] for effect in node.stale] == ["prefetch", "launch"]
    bench.settle()
    assert bench.outbox(undone=True) == []
    assert node.stages("fetching", "loading", "ready") == []


def test_a_group_called_off_before_its_node_heard_of_it_keeps_its_memory_until_the_node_has_refused_it(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    bench.messages("node.n0")
    bench.messages("node.n1")
    bench.change_model(enabled=False)
    bench.gateway.beat()
    for _ in range(3):
        bench.run()
        bench.gateway.beat()
    assert bench.states() == ["draining"]
    bench.deliver()
    assert bench.states() == ["stopped"]
    assert {stage.state for group in bench.groups() for stage in group.stages} == {"gone"}


def test_nothing_of_a_group_that_is_to_end_is_sent_again(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    bench.change_model(enabled=False)
    bench.gateway.beat()
    bench.run()
    bench.run()
    assert [(row.kind, row.done_at_ms is None) for row in bench.outbox()] == [
        ("prefetch", False),
        ("launch", False),
        ("stop", True),
    ]


def test_a_refused_launch_fails_the_start_at_once_and_says_why(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.nodes["n0"].refusal = bench.nodes["n1"].refusal = "settings.dtype: int3 is not known"
    bench.run()
    bench.deliver()
    first = bench.groups()[0]
    assert first.state == "failed"
    assert "int3 is not known" in first.reason
    assert "int3 is not known" in Why.from_json(first.why).facts["error"]
    with bench.here.sessions() as session:
        cold_start = session.get_one(ColdStart, first.cold_start_id)
    assert (cold_start.reason, cold_start.why) == (first.reason, first.why)


def test_a_stop_that_left_something_alive_is_asked_for_again(bench):
    group = serving(bench)
    node = bench.nodes[group.stages[0].node_name]
    node.slow_stop = True
    bench.gateway.activity("m")
    bench.change_model(enabled=False)
    bench.settle()
    assert bench.states() == ["draining"]
    assert [effect["kind"] for effect in node.effects].count("stop") == 1
    bench.age_outbox(61_000)
    node.slow_stop = False
    bench.settle()
    assert bench.states() == ["stopped"]


def test_a_node_that_was_away_for_hours_is_still_told_to_stop(bench):
    group = serving(bench)
    name = group.stages[0].node_name
    with session_scope(bench.here.sessions) as session:
        session.get_one(Node, name).seen_at_ms -= 60_000
    bench.gateway.activity("m")
    bench.run()
    assert bench.states()[0] == "failed"
    bench.messages(f"node.{name}")
    bench.age_outbox(4 * 3_600_000)
    bench.report(name)
    bench.run()
    bench.deliver()
    assert bench.nodes[name].stages("ready") == []


# --- reports ----------------------------------------------------------------------------------------------------------


def test_older_and_doubled_reports_change_nothing(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    (group,) = bench.groups()
    node = bench.nodes[group.stages[0].node_name]
    node.lives.append("hold")
    bench.deliver()
    loading = node.report()
    node.set_state("ready")
    ready = node.report()
    from tasks import control

    for report in (ready, loading, ready, loading):
        control.node_report(node.name, report)
    assert bench.groups()[0].stages[0].state == "ready"
    with bench.here.sessions() as session:
        marks = session.scalars(select(ColdStartEvent.kind).where(ColdStartEvent.stage_id != "")).all()
    assert len(marks) == len(set(marks))


def test_a_sign_of_life_without_news_is_noted_and_no_more(bench, monkeypatch):
    runs = count_runs(monkeypatch)
    with session_scope(bench.here.sessions) as session:
        session.get_one(Node, "n0").seen_at_ms = 0
    bench.report("n0")
    assert runs == []
    with bench.here.sessions() as session:
        assert session.get_one(Node, "n0").seen_at_ms > 0
    bench.nodes["n0"].ports = [32000, 32010]
    bench.nodes["n0"].touch()
    bench.report("n0")
    assert len(runs) == 1


def test_a_report_from_before_the_launch_does_not_fail_the_start(bench):
    empty = {name: node.report() for name, node in bench.nodes.items()}
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    from tasks import control

    for name, report in empty.items():
        control.node_report(name, report)
    assert bench.states() == ["starting"]


def test_what_ended_with_its_node_has_stopped_and_not_failed(bench):
    group = serving(bench)
    node = bench.nodes[group.stages[0].node_name]
    node._stages.clear()
    node.boot_id = "another"
    node.seq = 1
    bench.report(node.name)
    bench.run()
    stopped = bench.groups()[0]
    assert stopped.state == "stopped"
    assert stopped.reason == f"stage 0 on {node.name}: ended when its node was stopped"
    assert bench.gateway.routes("m") == []


def test_a_group_that_sql_never_heard_of_is_stopped_once(bench):
    node = bench.nodes["n0"]
    effect = {"group_id": "grp_unknown", "version": 7, "stage_id": "stg_unknown", "tensors": []}
    node.apply({"kind": "prefetch", **effect})
    bench.report("n0")
    bench.report("n0")
    (message,) = bench.messages("node.n0")
    assert (message["args"][1]["kind"], message["args"][1]["group_id"]) == ("stop", "grp_unknown")
    bench.age_outbox(4 * 3_600_000)
    bench.report("n0")
    bench.run()
    (again,) = bench.messages("node.n0")
    bench.carry_out(node, again)
    assert node.stages("gone")


def test_a_lost_node_fails_its_groups_and_the_model_moves(bench):
    group = serving(bench)
    bench.age_groups(60_000)
    lost = group.stages[0].node_name
    (other,) = set(bench.nodes) - {lost}
    with session_scope(bench.here.sessions) as session:
        session.get_one(Node, lost).seen_at_ms -= 21_000
    bench.gateway.activity("m", waiting=1)
    bench.run()
    bench.deliver(other)
    bench.report(other)
    bench.deliver(other)
    first, second = bench.groups()
    assert first.state == "failed"
    assert "stopped reporting" in first.reason
    # An engine that served before is no failed start: there is nothing to back off from.
    assert (second.state, second.stages[0].node_name) == ("standalone", other)


def test_a_failed_start_avoids_its_node_and_tells_clients_only_the_second_time(bench, monkeypatch):
    # Longer than a slow machine takes for what must come before it.
    monkeypatch.setattr("orchestrator.scaling.RETRY_FIRST_MS", 30_000)
    bench.add_model()
    for node in bench.nodes.values():
        node.lives.extend(["fail"] * 3)
    bench.gateway.activity("m", waiting=1)
    bench.run()
    bench.deliver()
    bench.report()
    assert bench.states() == ["failed"]
    assert bench.gateway.cold_start("m")["state"] == "waiting"
    bench.age_groups(30_000)
    bench.run()
    assert bench.states() == ["failed", "starting"]
    first, second = bench.groups()
    assert first.stages[0].node_name != second.stages[0].node_name
    bench.deliver()
    bench.report()
    told = bench.gateway.cold_start("m")
    assert told["state"] == "failed"
    assert "scripted to fail" in told["error"]
    assert told["failed_at_ms"] == bench.groups()[1].stopped_at_ms
    bench.run()
    assert bench.gateway.cold_start("m") == told, "told once, not anew with every tick"


def test_clients_of_a_model_that_serves_are_not_told_that_it_cannot_start(bench):
    group = serving(bench, capacity=1)
    bench.gateway.activity("m", waiting=1, groups={group.id: 1})
    for name in bench.nodes:
        with session_scope(bench.here.sessions) as session:
            session.get_one(Node, name).cordoned = True
    bench.run()
    assert bench.gateway.cold_start("m")["state"] == "waiting"


# --- ports ------------------------------------------------------------------------------------------------------------


def test_ports_of_groups_that_are_over_are_free_again(bench):
    bench.add_model()
    for _ in range(5):
        bench.gateway.activity("m", waiting=1)
        bench.settle()
        assert bench.states()[-1] == "standalone"
        bench.gateway.activity("m")
        bench.change_model(stop_requested_at_ms=2**50)
        bench.settle()
        bench.change_model(stop_requested_at_ms=None)
    assert set(bench.states()) == {"stopped"}


def test_a_start_that_no_node_heard_of_gives_its_ports_back(bench):
    bench.add_model()
    for _ in range(5):
        bench.gateway.activity("m", waiting=1)
        bench.run()
        bench.messages("node.n0")
        bench.messages("node.n1")
        bench.gateway.activity("m")
        bench.age_groups(400_000)
        bench.settle()
        assert bench.states()[-1] == "failed"
    with bench.here.sessions() as session:
        assert set(session.scalars(select(Stage.state))) == {"gone"}


def test_a_worker_that_has_no_port_to_grow_on_waits_and_holds_up_no_other_model(bench):
    bench.nodes["n2"] = FakeNoded("n2", first_port=31200)
    bench.add_model(split=True)
    bench.add_model("other")
    bench.gateway.activity("m", waiting=1)
    bench.run()
    with session_scope(bench.here.sessions) as session:
        for stage in session.scalars(select(Stage)):
            stage.group.stages[0].dist_port = None
            node = session.get_one(Node, stage.node_name)
            node.port_first = node.port_last = stage.port
            bench.nodes[node.name].ports = [stage.port, stage.port]
    bench.settle()
    assert bench.states() == ["consolidating"]
    bench.gateway.activity("other", waiting=1)
    bench.report("n2")
    bench.settle()
    assert bench.states() == ["consolidating", "standalone"]


def test_a_start_called_off_is_an_ended_cold_start(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    bench.change_model(enabled=False)
    bench.settle()
    with bench.here.sessions() as session:
        (cold_start,) = session.scalars(select(ColdStart)).all()
    assert cold_start.failed_at_ms is not None
    assert cold_start.reason == "no longer wanted: its model is disabled"
    assert Why.from_json(cold_start.why) == Why(WhyCode.MODEL_DISABLED)


# --- two controllers --------------------------------------------------------------------------------------------------


def test_a_decision_from_an_older_version_is_dropped(bench):
    from orchestrator.control import Move
    from orchestrator.lifecycle import GroupState
    from tasks.apply import apply

    group = serving(bench)
    drain = Move(group.id, group.version, GroupState.DRAINING, Why(WhyCode.DRAINS_FIRST))
    with session_scope(bench.here.sessions) as session:
        assert apply(session, [replace(drain, version=drain.version - 1)], 1) == 0
        assert apply(session, [drain], 1) == 1
        assert apply(session, [drain], 1) == 0
    assert bench.states() == ["draining"]
    with bench.here.sessions() as session:
        (view,) = load_state(session, read_demand(bench.redis, 1), 1).groups
    assert view.why == drain.why, "what follows hangs on it"


def test_a_start_from_an_older_version_of_its_model_is_dropped(bench):
    from orchestrator.control import Start
    from orchestrator.reconcile import reconcile
    from tasks.apply import apply

    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    with bench.here.sessions() as session:
        now = 1
        state = load_state(session, read_demand(bench.redis, now), now)
        (start,) = [decision for decision in reconcile(state) if isinstance(decision, Start)]
    for applied in (1, 0):
        with session_scope(bench.here.sessions) as session:
            assert apply(session, [start], 2) == applied
    assert len(bench.groups()) == 1


def test_two_controllers_that_race_start_exactly_one_group(bench):
    import threading

    bench.add_model()
    bench.add_model("other")
    bench.gateway.activity("m", waiting=1)
    bench.gateway.activity("other", waiting=1)
    at_once = threading.Barrier(4)
    failures = []

    def race() -> None:
        try:
            at_once.wait(10)
            bench.run()
        except Exception as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert bench.states() == ["starting", "starting"]
    with bench.here.sessions() as session:
        assert len({group.model_id for group in session.scalars(select(Group))}) == 2


@pytest.mark.parametrize(
    ("classes", "stages"),
    [
        (None, 2),
        (["standard"], 2),
        (["platinum"], 2),
        (["cheap"], 1),
        (["cheap", "standard"], 2),
    ],
    ids=["an older gateway", "standard", "a newer gateway", "cheap", "both"],
)
def test_a_start_is_as_large_as_the_class_of_who_waits_needs_it(bench, classes, stages):
    bench.add_model(split=True)
    told = {} if classes is None else {"oldest_by_class": dict.fromkeys(classes, now_ms())}
    bench.gateway.activity("m", waiting=1, **told)
    bench.run()
    (group,) = bench.groups()
    assert len(group.stages) == stages


def test_a_stores_egress_and_what_is_fetched_from_it_are_known(bench):
    bench.add_model(split=True)
    bench.gateway.activity("m", waiting=1)
    bench.run()
    now = now_ms()
    with bench.here.sessions() as session:
        source = session.scalars(select(Model.source)).one()
        told = {origin(source): 10**6, "s3://other": 5}
        seen = load_state(session, read_demand(bench.redis, now), now, store_bps=told)
    assert {name: store.egress_bps for name, store in seen.stores.items()} == told
    mine = seen.stores[origin(source)]
    assert len(mine.fetches) == 2
    assert seen.stores["s3://other"].fetches == ()
    view = seen.models["m"]
    assert seen.cluster_for(view).store == mine


def test_a_store_that_gives_little_makes_no_pipeline(bench):
    bench.add_model(split=True)
    with bench.here.sessions() as session:
        source = session.scalars(select(Model.source)).one()
    bench.here = replace(
        bench.here, settings=bench.here.settings.model_copy(update={"store_gbps": {origin(source): 1e-9}})
    )
    bench.gateway.activity("m", waiting=1)
    bench.run()
    (group,) = bench.groups()
    assert len(group.stages) == 1
