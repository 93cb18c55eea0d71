"""How groups end: broken, unwanted, idle, replaced; and that nothing ends that is in use."""

from dataclasses import replace

import pytest
from support.clusters import NOW, a_node
from support.control_state import group, heir, model, probed, stage, state, waiting

from orchestrator.consolidation import FIRST_TOKENS_MS
from orchestrator.control import Move, Start, Stop
from orchestrator.groups import Cause, StageState
from orchestrator.lifecycle import GroupState
from orchestrator.nodes import Nodes
from orchestrator.reconcile import reconcile
from orchestrator.types import Fetch, Sharing
from orchestrator.why import Why, WhyCode

S = StageState
G = GroupState
LIVE = [G.PLANNED, G.STARTING, G.PIPELINE, G.CONSOLIDATING, G.STANDALONE]
PAIR = (stage(0, "n0"), stage(1, "n1"))


def pair(there: GroupState, second, **changes):
    """A group whose second rank is as given; its first rank is fine."""
    return group(there, stage(0, "n0"), second, **changes)


def moves(decisions):
    return [(decision.group_id, decision.to) for decision in decisions if isinstance(decision, Move)]


# --- broken -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", LIVE)
@pytest.mark.parametrize(
    ("broken", "lost", "code", "told"),
    [
        (stage(1, "n1", S.FAILED, reason="out of memory"), [], WhyCode.STAGE_FAILED, {"error": "out of memory"}),
        (stage(1, "n1", S.FAILED), [], WhyCode.STAGE_FAILED, {}),
        (stage(1, "n1"), ["n1"], WhyCode.NODE_LOST, {}),
    ],
    ids=["failed", "failed silently", "node lost"],
)
def test_a_broken_stage_fails_its_group_whatever_it_was_doing(there, broken, lost, code, told):
    decisions = reconcile(state(pair(there, broken), lost=frozenset(lost)))
    (move,) = decisions
    assert move.to is G.FAILED
    assert move.why == Why(code, {"rank": 1, "node": "n1", **told})


@pytest.mark.parametrize("there", [G.PIPELINE, G.CONSOLIDATING, G.STANDALONE])
def test_a_group_that_ended_with_its_node_has_not_failed_and_what_is_left_of_it_is_stopped_at_once(there):
    cut = pair(there, stage(1, "n1", S.GONE, reason="ended when its node was stopped"), running=2)
    why = Why(WhyCode.STAGE_GONE, {"rank": 1, "node": "n1", "error": "ended when its node was stopped"})
    assert reconcile(state(cut)) == [Move("grp_1", 3, G.DRAINING, why)]
    draining = replace(cut, state=G.DRAINING, why=why)
    assert reconcile(state(draining)) == [Stop("grp_1")]
    gone = replace(draining, stages=(stage(0, "n0", S.GONE), stage(1, "n1", S.GONE)), stopping=True)
    assert reconcile(state(gone)) == [Move("grp_1", 3, G.STOPPED)]


@pytest.mark.parametrize("there", [G.PLANNED, G.STARTING])
def test_a_start_that_ended_with_its_node_has_failed(there):
    (move,) = reconcile(state(pair(there, stage(1, "n1", S.GONE))))
    assert move == Move("grp_1", 3, G.FAILED, Why(WhyCode.STAGE_GONE, {"rank": 1, "node": "n1"}), frozenset({"n1"}))


def test_a_failed_group_is_stopped_once_while_anything_of_it_is_left():
    failed = pair(G.FAILED, stage(1, "n1", S.FAILED))
    assert reconcile(state(failed)) == [Stop("grp_1")]
    assert reconcile(state(replace(failed, stopping=True))) == []
    nothing_left = group(G.FAILED, stage(0, "n0", S.GONE), stage(1, "n1", S.FAILED))
    assert reconcile(state(nothing_left)) == []


def test_a_stage_that_was_sent_and_not_heard_of_is_stopped_too():
    # Its node may be about to launch it: only a node that has refused the group for good is done with it.
    failed = group(G.FAILED, stage(0, "n0", S.FAILED), stage(1, "n1", S.PLANNED))
    assert reconcile(state(failed)) == [Stop("grp_1")]


def test_a_node_that_returns_with_a_process_of_a_dead_group_is_told_to_stop_it():
    failed = pair(G.FAILED, stage(1, "n1"))
    alone = replace(failed, stages=(stage(0, "n0", S.GONE), stage(1, "n1")))
    assert reconcile(state(alone, lost=frozenset({"n1"}))) == []
    assert reconcile(state(alone)) == [Stop("grp_1")]


def test_a_draining_group_that_breaks_is_over_and_what_is_left_is_stopped():
    breaking = pair(G.DRAINING, stage(1, "n1", S.FAILED, reason="died"), running=3, drain_version=200)
    (move,) = reconcile(state(breaking))
    assert (move.to, move.why.facts["error"]) == (G.STOPPED, "died")
    assert reconcile(state(replace(breaking, state=G.STOPPED))) == [Stop("grp_1")]


def test_a_draining_group_on_a_lost_node_is_over():
    (move,) = reconcile(state(pair(G.DRAINING, stage(1, "n1"), drain_version=200), lost=frozenset({"n1"})))
    assert move.to is G.STOPPED


# --- unwanted ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", LIVE)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"models": [model(enabled=False)]}, Why(WhyCode.MODEL_DISABLED)),
        ({"models": [model(stop_requested_ms=NOW - 10_000)]}, Why(WhyCode.MODEL_STOPPED)),
        ({"draining": {"n1": NOW}}, Why(WhyCode.NODE_EMPTIED, {"node": "n1"})),
    ],
    ids=["model disabled", "stop requested", "node draining"],
)
def test_an_unwanted_group_drains_whatever_it_was_doing(there, changes, why):
    decisions = reconcile(state(pair(there, stage(1, "n1")), **changes))
    assert [one for one in decisions if isinstance(one, Move)] == [Move("grp_1", 3, G.DRAINING, why)]


def test_a_group_of_a_deleted_model_drains():
    orphan = group(G.STANDALONE, model="deleted")
    assert reconcile(state(orphan)) == [Move("grp_1", 3, G.DRAINING, Why(WhyCode.MODEL_DELETED))]


def test_a_stop_request_ends_what_was_there_and_not_what_came_after():
    stopped = model(stop_requested_ms=NOW - 5000)
    before = group(G.STANDALONE, group_id="grp_a", created_ms=NOW - 5000)
    after = group(G.STANDALONE, group_id="grp_b", created_ms=NOW - 4999)
    assert moves(reconcile(state(before, after, models=[stopped]))) == [("grp_a", G.DRAINING)]


# --- draining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "seen", "stops"),
    [
        ({"drain_version": None}, 100, False),
        ({"drain_version": 101}, 100, False),
        ({"drain_version": 100, "running": 1}, 100, False),
        ({"drain_version": 100}, 100, True),
        ({"drain_version": 99}, 100, True),
        ({"drain_version": 101}, None, True),
        ({"drain_version": None}, None, False),
        ({"drain_version": 100, "stopping": True}, 100, False),
    ],
    ids=["not unrouted yet", "a gateway still has the route", "a request runs", "free", "long free", "no gateway lives",
         "no gateway, not unrouted", "stopped already"],
)  # fmt: skip
def test_a_draining_group_is_stopped_when_nobody_can_choose_it_and_nothing_runs(changes, seen, stops):
    there = group(G.DRAINING, **changes)
    assert reconcile(state(there, routes_version=seen)) == ([Stop("grp_1", quiet=seen is not None)] if stops else [])


@pytest.mark.parametrize("left", [S.PLANNED, S.FETCHING, S.STARTING, S.LOADING, S.READY, S.STOPPING])
def test_a_draining_group_is_stopped_only_when_all_its_processes_are_gone(left):
    there = pair(G.DRAINING, stage(1, "n1", left), drain_version=100, stopping=True)
    assert reconcile(state(replace(there, stages=(stage(0, "n0", S.GONE), there.stages[1])))) == []
    gone = replace(there, stages=(stage(0, "n0", S.GONE), stage(1, "n1", S.GONE)))
    assert reconcile(state(gone)) == [Move("grp_1", 3, G.STOPPED)]


def test_silence_after_redis_was_lost_is_no_proof_that_nothing_runs():
    idle = group(G.STANDALONE, group_id="grp_i", ready_ms=NOW - 10**9)
    draining = group(G.DRAINING, drain_version=50)
    unheard = state(idle, draining, routes_version=None, gateways_known=False)
    assert reconcile(unheard) == []
    heard = replace(unheard, gateways_known=True)
    why = Why(WhyCode.IDLE, {"idle_ms": 10**9, "keep_alive_ms": 300_000})
    assert reconcile(heard) == [Move("grp_i", 3, G.DRAINING, why), Stop("grp_1")]


def test_what_is_broken_or_unwanted_ends_even_while_no_gateway_was_heard():
    broken = group(G.STANDALONE, stage(state=S.FAILED), group_id="grp_a")
    unwanted = group(G.STANDALONE, group_id="grp_b", model="deleted")
    decisions = reconcile(state(broken, unwanted, gateways_known=False, routes_version=None))
    assert moves(decisions) == [("grp_a", G.FAILED), ("grp_b", G.DRAINING)]


# --- keep-alive -------------------------------------------------------------------------------------------------------

KEEP = 300_000


@pytest.mark.parametrize(
    ("ready_ms", "last_request_ms", "ends"),
    [
        (NOW - KEEP, None, True),
        (NOW - KEEP + 1, None, False),
        (NOW - 10 * KEEP, NOW - KEEP, True),
        (NOW - 10 * KEEP, NOW - KEEP + 1, False),
        (NOW - KEEP + 1, NOW - 10 * KEEP, False),
    ],
    ids=["never used", "never used, not long", "used long ago", "used lately", "ready lately, last asked for long ago"],
)
def test_the_idle_clock_starts_at_ready_or_at_the_end_of_the_last_request(ready_ms, last_request_ms, ends):
    there = group(G.STANDALONE, ready_ms=ready_ms)
    decisions = reconcile(state(there, models=[model(keep_alive_ms=KEEP, last_request_ms=last_request_ms)]))
    assert moves(decisions) == ([("grp_1", G.DRAINING)] if ends else [])


@pytest.mark.parametrize(
    ("there", "view"),
    [
        (group(G.STANDALONE, running=1), model(running=1)),
        (group(G.STANDALONE, running=1), model()),
        (group(G.STANDALONE), model(running=1)),
        (group(G.STANDALONE), model(waiting=1, oldest_waiting_ms=NOW)),
        (group(G.STARTING, stage(state=S.LOADING)), model()),
        (group(G.STARTING), model()),
        (group(G.STANDALONE), model(min_replicas=1)),
        (group(G.STANDALONE), model(warm_until_ms=NOW + 1)),
    ],
    ids=["busy", "busy, model unheard", "model busy", "awaited", "starting", "to be probed", "min replicas", "warm"],
)
def test_keep_alive_never_ends_what_is_used_awaited_starting_or_wanted(there, view):
    old = replace(there, created_ms=0, ready_ms=None if there.ready_ms is None else 0)
    assert moves(reconcile(state(old, models=[replace(view, keep_alive_ms=0)]))) == []


def test_warm_until_ends_with_the_clock():
    old = group(G.STANDALONE, ready_ms=0)
    assert moves(reconcile(state(old, models=[model(warm_until_ms=NOW)]))) == [("grp_1", G.DRAINING)]


@pytest.mark.parametrize("view", [model(min_replicas=1), model(warm_until_ms=NOW + 1)], ids=["min replicas", "warm"])
def test_of_several_idle_groups_as_many_stay_as_are_kept(view):
    groups = [group(G.STANDALONE, group_id=f"grp_{i}", ready_ms=i, created_ms=i) for i in range(3)]
    assert moves(reconcile(state(*groups, models=[view]))) == [("grp_0", G.DRAINING), ("grp_1", G.DRAINING)]


def worker(name: str, **changes):
    """A worker that has been ready, and unused, for ever."""
    return group(G.STANDALONE, **{"group_id": name, "ready_ms": 0, "created_ms": 0} | changes)


def test_an_idle_extra_worker_leaves_although_its_model_goes_on():
    busy = worker("grp_a", running=3, last_used_ms=NOW)
    view = model(running=3, last_request_ms=NOW)
    assert moves(reconcile(state(busy, worker("grp_b"), models=[view]))) == [("grp_b", G.DRAINING)]
    just_used = worker("grp_b", last_used_ms=NOW - KEEP + 1)
    assert moves(reconcile(state(busy, just_used, models=[view]))) == []
    # One slot is left beside it, and two wait.
    awaited = replace(view, waiting=2, oldest_waiting_ms=NOW)
    assert moves(reconcile(state(busy, worker("grp_b"), models=[awaited]))) == []


def test_of_two_unused_workers_the_one_used_last_stays_until_its_model_is_idle_too():
    first, second = worker("grp_a", last_used_ms=NOW - KEEP - 1), worker("grp_b", last_used_ms=NOW - KEEP)
    asked = model(last_request_ms=NOW - 1)
    assert moves(reconcile(state(first, second, models=[asked]))) == [("grp_a", G.DRAINING)]
    forgotten = model(last_request_ms=NOW - KEEP)
    assert len(moves(reconcile(state(first, second, models=[forgotten])))) == 2


def test_a_worker_that_replaces_a_busy_pipeline_is_not_idle():
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n0", "n1"], running=2, last_used_ms=NOW)
    grown = heir(G.STANDALONE, stage(0, "n0"), ready_ms=0)
    growing = heir(G.STARTING, stage(0, "n1", S.LOADING), group_id="grp_3")
    assert moves(reconcile(state(pipeline, grown, growing, models=[model(running=2)]))) == []


def test_an_idle_pipeline_without_anything_to_become_ends_too():
    old = group(G.PIPELINE, *PAIR, ready_ms=0)
    assert moves(reconcile(state(old))) == [("grp_1", G.DRAINING)]


# --- consolidation ----------------------------------------------------------------------------------------------------


def test_a_pipeline_with_a_target_consolidates():
    assert moves(reconcile(state(group(G.PIPELINE, *PAIR, targets=["n1"])))) == [("grp_1", G.CONSOLIDATING)]


def test_a_pipeline_without_a_target_stays_one():
    assert reconcile(state(group(G.PIPELINE, *PAIR))) == []


def test_the_standalone_worker_is_started_on_its_target():
    (start,) = reconcile(state(group(G.CONSOLIDATING, *PAIR, targets=["n1"])))
    assert isinstance(start, Start)
    assert (start.cause, start.parent_id, start.model) == (Cause.CONSOLIDATION, "grp_1", "m")
    (only,) = start.plan.stages
    assert (only.node, only.first_layer, only.layer_count, only.full) == ("n1", 0, 4, True)
    assert start.plan.consolidate is None


def test_the_requests_that_waited_for_a_pipeline_come_first():
    new = group(G.CONSOLIDATING, *PAIR, targets=["n1"], ready_ms=NOW - FIRST_TOKENS_MS + 1)
    assert reconcile(state(new)) == []
    (start,) = reconcile(state(replace(new, ready_ms=NOW - FIRST_TOKENS_MS)))
    assert start.cause is Cause.CONSOLIDATION


def test_one_standalone_worker_is_started_in_a_pass_and_none_twice():
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n0", "n1"])
    (start,) = reconcile(state(pipeline))
    assert start.plan.stages[0].node == "n0"
    first = heir(G.STARTING, stage(0, "n0", S.LOADING))
    (start,) = reconcile(state(pipeline, first))
    assert start.plan.stages[0].node == "n1"
    second = heir(G.STARTING, stage(0, "n1", S.LOADING), group_id="grp_3")
    assert reconcile(state(pipeline, first, second)) == []


def test_a_pass_starts_one_group_even_when_a_pipeline_and_a_request_want_one():
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"])
    decisions = reconcile(state(pipeline, models=[waiting("other")]))
    assert [(start.model, start.cause) for start in decisions if isinstance(start, Start)] == [
        ("m", Cause.CONSOLIDATION)
    ]


@pytest.mark.parametrize("there", [G.PLANNED, G.STARTING])
def test_the_pipeline_serves_until_its_heir_does(there):
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"], ready_ms=0)
    growing = heir(there, stage(0, "n1", S.LOADING))
    assert ("grp_1", G.DRAINING) not in moves(reconcile(state(pipeline, growing)))


def test_the_pipeline_drains_when_every_heir_serves():
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n0", "n1"], running=2)
    first = heir(G.STANDALONE, stage(0, "n0"))
    second = heir(G.STARTING, stage(0, "n1", S.LOADING), group_id="grp_3")
    busy = model(running=2)
    assert moves(reconcile(state(pipeline, first, second, models=[busy]))) == []
    served = heir(G.STANDALONE, stage(0, "n1"), group_id="grp_3")
    (move,) = reconcile(state(pipeline, first, served, models=[busy]))
    assert move == Move("grp_1", 3, G.DRAINING, Why(WhyCode.REPLACED))


def test_a_failed_heir_leaves_the_pipeline_serving_and_is_tried_again_after_the_back_off():
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"])
    failed = heir(G.FAILED, stage(0, "n1", S.GONE))
    early = replace(pipeline, heir_failures=1, heir_failed_ms=NOW - 999)
    assert reconcile(state(early, failed)) == []
    (start,) = reconcile(state(replace(early, heir_failed_ms=NOW - 1000), failed))
    assert start.cause is Cause.CONSOLIDATION


def test_failed_heirs_keep_no_request_from_a_start_nor_failed_starts_an_heir_from_growing():
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"], running=4, heir_failures=5, heir_failed_ms=NOW)
    (start,) = reconcile(state(pipeline, models=[waiting(running=4)]))
    assert start.cause is Cause.DEMAND
    (start,) = reconcile(state(replace(pipeline, heir_failures=0), models=[model(failures=5, failed_ms=NOW)]))
    assert start.cause is Cause.CONSOLIDATION


def test_a_failed_heir_must_be_gone_before_another_takes_its_memory():
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"])
    failed = heir(G.FAILED, stage(0, "n1", S.STOPPING), stopping=True)
    assert (
        reconcile(
            state(
                pipeline,
                failed,
            )
        )
        == []
    )


def test_no_standalone_worker_grows_on_a_cordoned_node():
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"])
    assert reconcile(state(pipeline, nodes=[a_node("n0"), a_node("n1", cordoned=True)])) == []


def test_the_heirs_fetch_goes_behind_all_others():
    # The link moves 2 GB/s; 2 GB are due in a second, and the heir wants another GB.
    tight = Fetch("stg_x", "n1", 2 * 10**9, NOW + 1100)
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"])
    (start,) = reconcile(state(pipeline, nodes=[a_node("n0"), a_node("n1", fetches=(tight,))]))
    assert start.plan.stages[0].deadline_ms > tight.deadline_ms


def test_the_heirs_fetch_waits_where_links_are_shared_equally_and_it_would_make_another_late():
    tight = Fetch("stg_x", "n1", 2 * 10**9, NOW + 1100)
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"])
    shared = replace(state(pipeline, nodes=[a_node("n0"), a_node("n1", fetches=(tight,))]), sharing=Sharing.EQUALLY)
    assert reconcile(shared) == []
    relaxed = replace(tight, deadline_ms=NOW + 60_000)
    (start,) = reconcile(replace(shared, nodes=Nodes([a_node("n0"), a_node("n1", fetches=(relaxed,))])))
    assert start.plan.stages[0].deadline_ms > NOW


@pytest.mark.parametrize("changes", [{"free_ports": 0}, {"gbps": 0}], ids=["no port", "no link"])
def test_the_heir_waits_for_a_port_and_a_link(changes):
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"])
    assert reconcile(state(pipeline, nodes=[a_node("n0"), a_node("n1", **changes)])) == []


def test_an_idle_pipeline_that_cannot_become_standalone_ends():
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"], ready_ms=0)
    for there in (pipeline, replace(pipeline, heir_failures=1, heir_failed_ms=NOW)):
        assert moves(reconcile(state(there))) == [("grp_1", G.DRAINING)]


def test_a_pipeline_that_nobody_uses_is_given_no_more_workers():
    """Else a worker that was ready first, and went unused, would be started anew for as long as another one starts."""
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n0", "n1"], ready_ms=0)
    growing = heir(G.STARTING, stage(0, "n1", S.LOADING))
    assert [d for d in reconcile(state(pipeline, growing)) if isinstance(d, Start)] == []
    (start,) = [
        d for d in reconcile(state(pipeline, growing, models=[model(last_request_ms=NOW)])) if isinstance(d, Start)
    ]
    assert start.plan.stages[0].node == "n0"


def test_a_worker_and_the_pipeline_that_it_replaces_are_not_both_ended():
    pipeline = group(G.CONSOLIDATING, *PAIR, targets=["n1"], ready_ms=0)
    served = heir(G.STANDALONE, stage(0, "n1"), ready_ms=NOW)
    kept = model(min_replicas=1, keep_alive_ms=0)
    assert moves(reconcile(state(pipeline, served, models=[kept]))) == [("grp_1", G.DRAINING)]


def test_an_heir_lives_on_when_its_pipeline_breaks():
    broken = group(G.CONSOLIDATING, stage(0, "n0"), stage(1, "n1", S.FAILED), targets=["n0"])
    ready = heir(G.STARTING, stage(0, "n0"), probe=probed())
    assert moves(reconcile(state(broken, ready))) == [("grp_1", G.FAILED), ("grp_2", G.STANDALONE)]
