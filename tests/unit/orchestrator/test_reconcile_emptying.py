"""A node is emptied without a gap: what it serves goes on until another node does, or too long has passed."""

from dataclasses import replace

import pytest
from support.clusters import NOW, a_node
from support.control_state import group, heir, model, stage, state, waiting

from orchestrator.control import Move, Start, Wait
from orchestrator.ending import DRAIN_WAIT_MS
from orchestrator.groups import Cause, StageState
from orchestrator.lifecycle import GroupState
from orchestrator.reconcile import reconcile
from orchestrator.why import Why, WhyCode

G = GroupState
S = StageState
NODES = [a_node("n0", cordoned=True), a_node("n1")]
EMPTYING = {"n0": NOW - DRAIN_WAIT_MS + 1}
KEPT = model(min_replicas=1)


def here(**changes):
    return group(G.STANDALONE, stage(0, "n0"), **changes)


def elsewhere(there, **changes):
    loading = S.READY if there is G.STANDALONE else S.LOADING
    return group(there, stage(0, "n1", loading), group_id="grp_2", **changes)


def decided(*groups, view=KEPT, nodes=NODES, draining=EMPTYING):
    return reconcile(state(*groups, models=[view], nodes=nodes, draining=draining))


@pytest.mark.parametrize(
    ("view", "running", "cause"),
    [
        (KEPT, 0, Cause.MIN_REPLICAS),
        (model(warm_until_ms=NOW + 1), 0, Cause.WARM),
        (model(running=1), 1, Cause.DEMAND),
        (waiting(running=4), 4, Cause.DEMAND),
    ],
    ids=["min replicas", "warm", "busy", "awaited"],
)
def test_a_worker_that_is_needed_serves_on_while_another_is_started(view, running, cause):
    (start,) = decided(here(running=running), view=view)
    assert isinstance(start, Start)
    assert (start.cause, start.plan.stages[0].node) == (cause, "n1")
    assert decided(here(running=running), elsewhere(G.STARTING), view=view) == []


def test_it_drains_when_the_other_serves():
    moves = decided(here(running=1), elsewhere(G.STANDALONE), view=model(running=1))
    assert [(move.group_id, move.to) for move in moves] == [("grp_1", G.DRAINING)]


def test_one_that_nobody_needs_drains_at_once():
    (move,) = decided(here(), view=model())
    assert (move.group_id, move.to) == ("grp_1", G.DRAINING)


def test_the_wait_for_another_has_an_end():
    full = [NODES[0], a_node("n1", free_gb=(0,))]
    (wait,) = decided(here(), nodes=full)
    assert isinstance(wait, Wait)
    moves = [d for d in decided(here(), nodes=full, draining={"n0": NOW - DRAIN_WAIT_MS}) if isinstance(d, Move)]
    assert [(move.group_id, move.to) for move in moves] == [("grp_1", G.DRAINING)]


def test_one_that_people_stopped_or_that_has_not_begun_to_serve_waits_for_nothing():
    (move,) = decided(here(), view=replace(KEPT, enabled=False))
    assert move.to is G.DRAINING
    starting = group(G.STARTING, stage(0, "n0", S.LOADING))
    assert decided(starting)[0] == Move("grp_1", 3, G.DRAINING, Why(WhyCode.NODE_EMPTIED, {"node": "n0"}))


def test_a_pipeline_leaves_a_node_by_being_consolidated_elsewhere():
    ranks = (stage(0, "n0"), stage(1, "n1"))
    pipeline = group(G.CONSOLIDATING, *ranks, targets=["n1"], running=1)
    (start,) = decided(pipeline, view=model(running=1))
    assert (start.cause, start.plan.stages[0].node) == (Cause.CONSOLIDATION, "n1")
    growing = heir(G.STARTING, stage(0, "n1", S.LOADING))
    assert decided(pipeline, growing, view=model(running=1)) == []
