"""Starts that fail again and again: which nodes are avoided, when it is tried again, what does not count."""

from __future__ import annotations

from support.fake_noded import FakeNoded
from support.registry_rows import add_tenant

from registry.db import session_scope
from registry.models import Usage


def fail_start(bench, *, age_ms=0):
    """The next start fails on the node that it is planned on; the name of that node."""
    bench.age_groups(age_ms)
    bench.run()
    node = bench.groups()[-1].stages[0].node_name
    bench.nodes[node].lives.append("fail")
    bench.deliver()
    bench.report()
    assert bench.states()[-1] == "failed"
    return node


def test_a_healthy_node_is_found_however_many_broken_ones_there_are(bench):
    bench.nodes["n2"] = FakeNoded("n2", first_port=31200)
    bench.report("n2")
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    broken = {fail_start(bench, age_ms=120_000) for _ in range(2)}
    bench.age_groups(120_000)
    bench.settle()
    assert bench.states() == ["failed", "failed", "standalone"]
    assert {bench.groups()[-1].stages[0].node_name} == set(bench.nodes) - broken


def die_at_once(bench, **usage):
    """A worker becomes ready and its engine dies; `usage`: of a request that it has served before."""
    group = bench.groups()[-1]
    assert group.state == "standalone"
    if usage:
        with session_scope(bench.here.sessions) as session:
            event = {"request_id": "r", "key_id": "key_1", "gateway_id": "gw_1", "lane": "direct", "endpoint": "/v1"}
            counts = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1, "cost_nusd": 0}
            times = {"stream": False, "started_at_ms": 1, "ended_at_ms": 2}
            names = {"tenant_id": add_tenant(session).id, "model_id": group.model_id, "model_name": "m"}
            session.add(Usage(attempt_id="att_1", group_id=group.id, **event, **counts, **times, **names, **usage))
    bench.nodes[group.stages[0].node_name].set_state("failed", reason="killed by signal 11")
    bench.report()


def test_an_engine_that_always_dies_right_after_ready_is_backed_off_from_and_clients_are_told(bench):
    bench.add_model(min_replicas=1)
    bench.settle()
    die_at_once(bench)
    assert bench.states() == ["failed"], "not started again in the same breath"
    bench.age_groups(1000)
    bench.settle()
    die_at_once(bench)
    bench.gateway.activity("m", waiting=1)
    bench.age_groups(1000)
    bench.run()
    assert bench.states() == ["failed", "failed"], "the wait has doubled"
    assert bench.gateway.cold_start("m")["state"] == "failed"
    assert "signal 11" in bench.gateway.cold_start("m")["error"]


def test_an_engine_that_has_served_or_lived_for_a_minute_is_started_again_at_once(bench):
    bench.add_model(min_replicas=1)
    bench.settle()
    die_at_once(bench, outcome="ok")
    assert bench.states() == ["failed", "starting"]
    bench.settle()
    bench.age_groups(60_000)
    die_at_once(bench)
    assert bench.states() == ["failed", "failed", "starting"]


def test_a_pipelines_failed_heirs_hold_up_no_start(bench, monkeypatch):
    # Longer than a slow machine takes for the six passes.
    monkeypatch.setattr("orchestrator.scaling.RETRY_FIRST_MS", 30_000)
    bench.add_model(split=True)
    bench.gateway.activity("m", waiting=1)
    for node in bench.nodes.values():
        node.lives.extend(["ready", "fail", "fail"])
    bench.gateway.beat()
    for _ in range(6):
        bench.run()
        bench.deliver()
        bench.report()
    assert bench.states() == ["consolidating", "failed"], "tried again only after a while"
    view = bench.load_state()
    assert (view.models["m"].failures, view.models["m"].avoid) == (0, frozenset())
    assert [(g.heir_failures, g.heir_failed_ms) for g in view.groups if g.parent_id is None] == [
        (1, bench.groups()[1].stopped_at_ms)
    ]


def test_no_start_is_given_up_while_its_fetch_is_in_time(bench):
    from dataclasses import replace

    from orchestrator.control import Start
    from orchestrator.reconcile import reconcile
    from tasks.apply import apply

    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    (start,) = [decision for decision in reconcile(bench.load_state()) if isinstance(decision, Start)]
    slow = replace(start.plan.stages[0], deadline_ms=1_000_000)
    with session_scope(bench.here.sessions) as session:
        apply(session, [replace(start, plan=replace(start.plan, stages=(slow,)))], 1)
    # 2 s is the tail of a model that has not been measured.
    assert bench.groups()[0].deadline_ms == 1_000_000 + 2_000 + 60_000
