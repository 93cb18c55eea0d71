"""Idle workers that make room: so that another model starts at all, or within its service level."""

from dataclasses import replace

import pytest
from support.clusters import NOW, a_node
from support.control_state import group, model, stage, state, waiting

from orchestrator.control import Move, Start, Wait
from orchestrator.eviction import UNUSED_MS
from orchestrator.lifecycle import GroupState
from orchestrator.policies import HYDRANT, MakesRoom
from orchestrator.reconcile import LEAVES_MS, reconcile
from orchestrator.why import Why, WhyCode

G = GroupState
NO_ROOM, FAST, TOO_SLOW = (0.5,), 16, 0.1
"""GB that are free, and Gbit/s. Over the slow link the model's 1 GB takes 80 s; its service level is 60 s."""
LATE_ONLY = [a_node("n0", gbps=FAST, free_gb=NO_ROOM), a_node("n1", gbps=TOO_SLOW)]


def idle(name="a", node="n0", unused_ms=UNUSED_MS, **changes):
    """A worker of another model, unused for so long."""
    values = {"group_id": f"grp_{name}", "model": name, "ready_ms": 0, "last_used_ms": NOW - unused_ms}
    return group(G.STANDALONE, stage(0, node), **(values | changes))


def decide(*groups, nodes=LATE_ONLY, policy=HYDRANT, **views):
    others = [model(one.model, **views) for one in groups]
    return reconcile(state(*groups, models=[waiting(), *others], nodes=nodes), policy)


def test_an_idle_worker_makes_room_for_a_service_level():
    move, wait = decide(idle())
    assert isinstance(move, Move)
    assert (move.group_id, move.to, move.why) == ("grp_a", G.DRAINING, Why(WhyCode.MAKES_ROOM, {"model": "m"}))
    assert isinstance(wait, Wait)
    assert wait.model == "m"


def test_whoever_waits_for_room_is_told_when_a_first_token_could_come():
    _, wait = decide(idle())
    (start,) = reconcile(state(models=[waiting()], nodes=[a_node("n0", gbps=FAST)]))
    assert wait.eta_ms == NOW + LEAVES_MS + start.plan.predicted_ttft_ms - 1000, "of which it has waited a second"
    (wait,) = decide(idle(running=1), nodes=[a_node("n0", free_gb=NO_ROOM)])
    assert wait.eta_ms is None, "nobody knows when a worker that is used will end"


def test_while_it_leaves_the_model_waits_and_nobody_else_goes():
    leaving = idle("a")
    leaving = replace(leaving, state=G.DRAINING, drain_version=1, stopping=True)
    decisions = decide(leaving, idle("b", "n1"))
    assert [type(one) for one in decisions] == [Wait]


@pytest.mark.parametrize(
    ("there", "nodes"),
    [
        (idle(unused_ms=UNUSED_MS - 1), LATE_ONLY),
        (idle(running=1), LATE_ONLY),
        (idle(node="n1"), LATE_ONLY),
        (idle(), [a_node("n0", gbps=0.01, free_gb=NO_ROOM), a_node("n1", gbps=TOO_SLOW)]),
    ],
    ids=["used a moment ago", "busy", "elsewhere", "of no help"],
)
def test_a_late_start_goes_on_where_nobody_may_or_can_help(there, nodes):
    (start,) = decide(there, nodes=nodes)
    assert isinstance(start, Start)
    assert start.plan.degraded


def test_nobody_goes_for_a_service_level_that_nobody_waits_for():
    ahead = model(warm_until_ms=NOW + 1)
    (start,) = reconcile(state(idle(), models=[ahead, model("a")], nodes=LATE_ONLY))
    assert isinstance(start, Start)
    assert start.plan.degraded


def test_a_worker_used_a_moment_ago_goes_where_there_is_no_start_at_all_without_it():
    move, wait = decide(idle(unused_ms=0), nodes=[a_node("n0", free_gb=NO_ROOM)])
    assert (type(move), type(wait)) == (Move, Wait)


def test_the_worker_that_is_missed_least_goes():
    nodes = [a_node("n0", gbps=FAST, free_gb=NO_ROOM), a_node("n2", gbps=FAST, free_gb=NO_ROOM), LATE_ONLY[1]]
    older, younger = idle("a", unused_ms=30_000), idle("b", "n2", unused_ms=20_000)
    assert decide(older, younger, nodes=nodes)[0].group_id == "grp_a"
    comes_back = model("a", pauses_ms=(35_000,) * 9)
    views = [waiting(), comes_back, model("b")]
    assert reconcile(state(older, younger, models=views, nodes=nodes))[0].group_id == "grp_b"


def test_a_policy_may_make_no_room():
    (start,) = decide(idle(), policy=replace(HYDRANT, makes_room=MakesRoom.TO_START))
    assert start.plan.degraded
    (wait,) = decide(idle(), nodes=[a_node("n0", free_gb=NO_ROOM)], policy=replace(HYDRANT, makes_room=MakesRoom.NEVER))
    assert isinstance(wait, Wait)
