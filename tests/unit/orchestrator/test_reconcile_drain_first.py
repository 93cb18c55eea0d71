"""Pipelines whose standalone worker fits only where their own stage is: they drain first, and it follows."""

from dataclasses import replace

import pytest
from support.clusters import GB, NOW, a_node
from support.control_state import a_plan, drain_first, group, heir, model, stage, state, waiting

from orchestrator.consolidation import DRAIN_FIRST_AFTER_MS
from orchestrator.control import Move, Start, Wait
from orchestrator.groups import Cause, StageState
from orchestrator.lifecycle import GroupState
from orchestrator.reconcile import reconcile
from orchestrator.why import Why, WhyCode

G = GroupState
S = StageState
PLAN = a_plan(["n0", "n1"], consolidate=drain_first("n1"))
NODES = [a_node("n0", free_gb=(0,)), a_node("n1", free_gb=(0,))]
DRAINS_FIRST = Why(WhyCode.DRAINS_FIRST)
LATELY = model(last_request_ms=NOW - DRAIN_FIRST_AFTER_MS)


def pipeline(there=G.PIPELINE, first=S.READY, second=S.READY, **changes):
    values = {"plan": PLAN, "ready_ms": NOW - 60_000} | changes
    return group(there, stage(0, "n0", first), stage(1, "n1", second), **values)


def draining(first=S.GONE, second=S.GONE, **changes):
    return pipeline(G.DRAINING, first, second, **{"why": DRAINS_FIRST, "drain_version": 100} | changes)


def test_a_pipeline_that_nobody_uses_for_a_while_drains_for_its_worker():
    (move,) = reconcile(state(pipeline(), models=[LATELY], nodes=NODES))
    assert move == Move("grp_1", 3, G.DRAINING, DRAINS_FIRST)


@pytest.mark.parametrize(
    ("there", "view", "nodes"),
    [
        (pipeline(running=1), LATELY, NODES),
        (pipeline(), replace(LATELY, waiting=1, oldest_waiting_ms=NOW), NODES),
        (pipeline(), replace(LATELY, last_request_ms=NOW - DRAIN_FIRST_AFTER_MS + 1), NODES),
        (pipeline(ready_ms=NOW - DRAIN_FIRST_AFTER_MS + 1), LATELY, NODES),
        (pipeline(), LATELY, [NODES[0], replace(NODES[1], cordoned=True)]),
        (pipeline(), LATELY, [NODES[0], replace(NODES[1], free_ports=0)]),
    ],
    ids=["busy", "awaited", "just used", "just ready", "its node is cordoned", "no port for the worker"],
)
def test_it_serves_on_while_it_is_used_or_its_worker_could_not_follow(there, view, nodes):
    assert [d for d in reconcile(state(there, models=[view], nodes=nodes)) if isinstance(d, Move)] == []


def test_past_its_keep_alive_it_ends_for_good():
    (move,) = reconcile(state(pipeline(), models=[replace(LATELY, keep_alive_ms=5000)], nodes=NODES))
    assert move.why == Why(WhyCode.IDLE, {"idle_ms": 60_000, "keep_alive_ms": 5000})


def test_the_worker_is_started_when_every_stage_is_gone_and_before_the_pipeline_is_over():
    assert reconcile(state(draining(S.GONE, S.STOPPING, stopping=True), models=[LATELY], nodes=NODES)) == []
    (start,) = reconcile(state(draining(), models=[LATELY], nodes=NODES))
    assert isinstance(start, Start)
    assert (start.cause, start.parent_id, start.plan.s) == (Cause.CONSOLIDATION, "grp_1", 1)
    assert (start.plan.stages[0].node, start.plan.stages[0].reserved_bytes) == ("n1", 2 * GB)
    follower = heir(G.STARTING, stage(0, "n1", S.LOADING), plan=start.plan)
    assert reconcile(state(draining(), follower, models=[LATELY], nodes=NODES)) == [Move("grp_1", 3, G.STOPPED)]


@pytest.mark.parametrize(
    "view",
    [waiting(count=4), model(min_replicas=1), model(warm_until_ms=NOW + 1)],
    ids=["demand", "min replicas", "warm"],
)
def test_what_is_wanted_in_between_waits_for_the_worker_to_come_and_starts_nothing_else(view):
    still_there = draining(S.GONE, S.STOPPING, stopping=True)
    assert reconcile(state(still_there, models=[view])) == []
    (start,) = reconcile(state(draining(), models=[view]))
    assert start.cause is Cause.CONSOLIDATION


@pytest.mark.parametrize(
    ("there", "view", "nodes"),
    [
        (draining(why=Why(WhyCode.IDLE)), LATELY, NODES),
        (draining(), replace(LATELY, enabled=False), NODES),
        (draining(), replace(LATELY, stop_requested_ms=NOW), NODES),
        (draining(), LATELY, [NODES[0], replace(NODES[1], cordoned=True)]),
    ],
    ids=["ended as idle", "disabled", "stopped", "its node is cordoned by now"],
)
def test_nothing_follows_a_pipeline_that_ends_for_another_reason_or_is_no_longer_wanted(there, view, nodes):
    assert reconcile(state(there, models=[view], nodes=nodes)) == [Move("grp_1", 3, G.STOPPED)]


def test_demand_is_served_elsewhere_when_the_worker_cannot_follow():
    nodes = [a_node("n0"), replace(NODES[1], cordoned=True)]
    decisions = reconcile(state(draining(), models=[waiting()], nodes=nodes))
    assert [type(decision) for decision in decisions] == [Move, Start]


def test_the_memory_for_the_worker_is_no_room_that_is_coming_for_another_model():
    there = draining(S.GONE, S.STOPPING, stopping=True)
    idle = group(G.STANDALONE, group_id="grp_i", model="idle", plan=a_plan(name="idle"))
    models = [LATELY, waiting("other"), model("idle")]
    decisions = reconcile(state(there, idle, models=models, nodes=NODES))
    assert [(d.group_id, d.to) for d in decisions if isinstance(d, Move)] == [("grp_i", G.DRAINING)]
    assert any(isinstance(d, Wait) for d in decisions)
