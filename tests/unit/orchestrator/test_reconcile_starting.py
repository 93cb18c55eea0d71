"""When a group is started, how its start is followed, and how a failed one is retried."""

from dataclasses import replace

import pytest
from support.clusters import GB, NOW, a_model, a_node
from support.control_state import SMALL, a_plan, drain_first, group, heir, model, probed, stage, state, waiting

from orchestrator.control import Move, Start, Wait
from orchestrator.explain import refusal_text
from orchestrator.groups import Cause, GroupView, StageState
from orchestrator.lifecycle import GroupState
from orchestrator.plan import RETRY_MS
from orchestrator.reconcile import reconcile
from orchestrator.types import DeviceState, NoPlanReason
from orchestrator.why import SlowStage, Why, WhyCode

S = StageState
STARTING = GroupState.STARTING


def starts(decisions):
    return [decision for decision in decisions if isinstance(decision, Start)]


def moves(decisions):
    return [(decision.group_id, decision.to) for decision in decisions if isinstance(decision, Move)]


# --- demand -----------------------------------------------------------------------------------------------------------


def test_nothing_is_done_without_demand():
    assert reconcile(state()) == []


def test_a_held_request_starts_one_group():
    (start,) = reconcile(state(models=[waiting()]))
    assert isinstance(start, Start)
    assert (start.model, start.cause, start.parent_id, start.plan.s) == ("m", Cause.DEMAND, None, 1)


@pytest.mark.parametrize(
    "there",
    [
        group(GroupState.PLANNED, stage(state=S.PLANNED, verified=False)),
        group(STARTING, stage(state=S.LOADING, verified=False)),
        group(GroupState.STANDALONE, running=3),
        group(GroupState.PIPELINE, stage(0, "n0"), stage(1, "n1"), running=3),
    ],
    ids=lambda there: str(there.state),
)
def test_no_second_start_while_one_starts_or_a_slot_is_free(there):
    assert starts(reconcile(state(there, models=[waiting(count=1, running=there.running)]))) == []


def test_more_requests_than_slots_start_another_group():
    full = group(GroupState.STANDALONE, running=4)
    (start,) = starts(reconcile(state(full, models=[waiting(count=1, running=4)])))
    assert start.cause is Cause.DEMAND


def test_a_worker_that_two_gateways_have_filled_twice_gets_another_beside_it():
    overfull = group(GroupState.STANDALONE, running=8)
    (start,) = starts(reconcile(state(overfull, models=[model(running=8)])))
    assert start.cause is Cause.DEMAND


def test_requests_that_end_on_a_draining_group_take_no_slot_of_the_one_that_serves():
    draining = group(GroupState.DRAINING, group_id="grp_0", running=4)
    serving = group(GroupState.STANDALONE, running=0)
    assert starts(reconcile(state(draining, serving, models=[waiting(count=1, running=4)]))) == []


def test_a_burst_planned_to_end_as_several_workers_is_not_started_twice():
    # Two workers' worth of requests; one pipeline is starting that will become two workers.
    burst = group(STARTING, stage(0, "n0", S.LOADING), stage(1, "n1", S.LOADING), targets=["n0", "n1"])
    assert starts(reconcile(state(burst, models=[waiting(count=8)]))) == []


def test_a_burst_that_consolidates_into_several_workers_is_not_started_twice():
    pipeline = group(GroupState.CONSOLIDATING, stage(0, "n0"), stage(1, "n1"), targets=["n0", "n1"], running=4)
    first = heir(STARTING, stage(0, "n0", S.LOADING), group_id="grp_2")
    second = heir(STARTING, stage(0, "n1", S.LOADING), group_id="grp_3")
    assert starts(reconcile(state(pipeline, first, second, models=[waiting(count=4, running=4)]))) == []


def test_an_orphaned_heir_still_counts_as_starting():
    ended = group(GroupState.FAILED, stage(0, "n0", S.GONE), stage(1, "n1", S.GONE))
    orphan = heir(STARTING, stage(0, "n0", S.LOADING))
    assert starts(reconcile(state(ended, orphan, models=[waiting()]))) == []


def test_the_request_that_has_waited_longest_is_served_first_and_one_group_at_a_time():
    younger = waiting("a", oldest_waiting_ms=NOW - 10)
    older = waiting("z", oldest_waiting_ms=NOW - 500)
    assert [start.model for start in starts(reconcile(state(models=[younger, older])))] == ["z"]


def test_the_request_that_is_due_first_goes_first_though_another_has_waited_longer():
    patient = waiting("a", oldest_waiting_ms=NOW - 20_000)
    urgent = waiting("z", spec=replace(SMALL, slo_ttft_ms=5_000), oldest_waiting_ms=NOW - 10)
    assert [start.model for start in starts(reconcile(state(models=[patient, urgent])))] == ["z"]


def test_a_model_that_cannot_start_does_not_hold_up_another():
    giant = waiting("giant", spec=a_model(500), oldest_waiting_ms=NOW - 5000)
    decisions = reconcile(state(models=[giant, waiting("b")]))
    assert [type(decision) for decision in decisions] == [Wait, Start]
    assert decisions[0].model == "giant"
    assert decisions[0].why.reason is NoPlanReason.MODEL_TOO_LARGE
    assert decisions[0].retry_at_ms is None
    assert decisions[1].model == "b"


def test_a_disabled_model_is_never_started():
    assert reconcile(state(models=[waiting(enabled=False, min_replicas=1, warm_until_ms=NOW + 1)])) == []


def test_min_replicas_and_warm_start_without_demand():
    (start,) = reconcile(state(models=[model(min_replicas=1)]))
    assert start.cause is Cause.MIN_REPLICAS
    (start,) = reconcile(state(models=[model(warm_until_ms=NOW + 1)]))
    assert start.cause is Cause.WARM
    assert reconcile(state(models=[model(warm_until_ms=NOW)])) == []


@pytest.mark.parametrize("there", [STARTING, GroupState.STANDALONE])
def test_a_replica_that_starts_or_serves_is_enough_for_one(there):
    one = group(there, stage(state=S.LOADING if there is STARTING else S.READY))
    assert starts(reconcile(state(one, models=[model(min_replicas=1, warm_until_ms=NOW + 1)]))) == []
    (start,) = starts(reconcile(state(one, models=[model(min_replicas=2)])))
    assert start.cause is Cause.MIN_REPLICAS


def test_a_failed_group_no_longer_counts_as_starting():
    over = group(GroupState.FAILED, stage(state=S.GONE))
    assert len(starts(reconcile(state(over, models=[waiting()])))) == 1


def test_lost_and_cordoned_nodes_are_not_planned_on():
    nodes = [a_node("n0"), a_node("n1", cordoned=True), a_node("n2")]
    (start,) = reconcile(state(models=[waiting()], nodes=nodes, lost=frozenset({"n0"})))
    assert [one.node for one in start.plan.stages] == ["n2"]


def test_without_nodes_the_model_waits_and_says_why():
    (wait,) = reconcile(state(models=[waiting()], nodes=[]))
    assert isinstance(wait, Wait)
    assert wait.why.reason is NoPlanReason.NO_NODES
    # None has reported yet: that is not for good.
    assert wait.retry_at_ms == NOW + RETRY_MS


@pytest.mark.parametrize(
    ("spec", "lost", "reason"),
    [
        (SMALL, {"n0", "n1"}, NoPlanReason.NO_NODES),
        (a_model(40), {"n1"}, NoPlanReason.MODEL_TOO_LARGE),
    ],
    ids=["all nodes lost", "the one large enough lost"],
)
def test_what_a_lost_node_could_serve_is_not_hopeless_and_the_node_is_named(spec, lost, reason):
    small = replace(a_node("n0"), devices=(DeviceState("n0", 0, "cuda", 20 * GB, 20 * GB),))
    nodes = [small, a_node("n1")]
    (wait,) = reconcile(state(models=[waiting(spec=spec)], nodes=nodes, lost=frozenset(lost)))
    assert wait.why.reason is reason
    assert wait.retry_at_ms == NOW + RETRY_MS
    assert f"they have stopped reporting: {', '.join(sorted(lost))}." in refusal_text(wait.why)


def test_without_a_lost_node_a_cordoned_cluster_and_a_model_too_large_are_hopeless():
    cordoned = [a_node("n0", cordoned=True)]
    for view, nodes in ((waiting(), cordoned), (waiting(spec=a_model(500)), None)):
        (wait,) = reconcile(state(models=[view], nodes=nodes))
        assert wait.retry_at_ms is None


# --- the way to ready -------------------------------------------------------------------------------------------------


def test_a_planned_group_starts():
    (move,) = reconcile(state(group(GroupState.PLANNED, stage(state=S.PLANNED, verified=False))))
    assert move == Move("grp_1", 3, STARTING)


@pytest.mark.parametrize(
    "stages",
    [
        (stage(0, "n0"), stage(1, "n1", S.LOADING)),
        (stage(0, "n0"), stage(1, "n1", S.READY, verified=False)),
        (stage(0, "n0", S.PLANNED, verified=False), stage(1, "n1")),
    ],
    ids=["one rank loads", "one rank is unverified", "one rank is unheard of"],
)
def test_a_token_counts_only_when_every_rank_is_ready_and_verified(stages):
    assert reconcile(state(group(STARTING, *stages, probe=probed(True)))) == []


def test_a_group_that_is_ready_waits_for_its_token():
    assert reconcile(state(group(STARTING, stage(0, "n1"), stage(1, "n0")))) == []


def test_a_token_that_came_back_makes_the_group_serve():
    one = group(STARTING, probe=probed())
    assert reconcile(state(one)) == [Move("grp_1", 3, GroupState.STANDALONE)]
    two = group(STARTING, stage(0, "n0"), stage(1, "n1"), probe=probed())
    assert reconcile(state(two)) == [Move("grp_1", 3, GroupState.PIPELINE)]


# --- failing and trying again -----------------------------------------------------------------------------------------


def failure_of(there: GroupView, **changes) -> Why:
    decisions = reconcile(state(there, **changes))
    (move,) = [decision for decision in decisions if isinstance(decision, Move)]
    assert (move.to, move.version) == (GroupState.FAILED, 3)
    return move.why


def test_a_refused_probe_fails_the_start_with_its_words():
    bad = group(STARTING, probe=probed(False, error="HTTP 500: CUDA error"))
    assert failure_of(bad) == Why(WhyCode.PROBE_FAILED, {"error": "HTTP 500: CUDA error"})
    assert failure_of(group(STARTING, probe=probed(False))) == Why(WhyCode.PROBE_FAILED)


def test_a_node_that_takes_no_work_fails_the_start():
    deaf = group(STARTING, stage(0, "n0"), stage(1, "n1", S.PLANNED), unheard=frozenset({"n1"}))
    assert failure_of(deaf) == Why(WhyCode.NODE_TAKES_NOTHING, {"rank": 1, "node": "n1"})


def too_late(*stages: SlowStage) -> Why:
    return Why(WhyCode.NOT_READY_IN_TIME, {"allowed_ms": 300_000}, stages)


def test_a_start_past_its_deadline_fails_and_names_what_was_slow():
    within = {"created_ms": NOW - 300_001, "deadline_ms": NOW - 1}
    late = group(STARTING, stage(0, "n0"), stage(1, "n1", S.FETCHING), **within)
    assert failure_of(late) == too_late(SlowStage(1, "n1", "fetching"))
    fetching = replace(stage(1, "n1", S.FETCHING, verified=False), bytes_fetched=1_234_567, bytes_to_fetch=269_000_000)
    slow = group(STARTING, stage(0, "n0", S.LOADING), fetching, **within)
    assert failure_of(slow) == too_late(
        SlowStage(0, "n0", "loading"), SlowStage(1, "n1", "fetching", 1_234_567, 269_000_000)
    )
    assert failure_of(group(STARTING, **within)) == too_late()


@pytest.mark.parametrize(
    ("there", "blamed"),
    [
        (group(STARTING, stage(0, "n0"), stage(1, "n1", S.FAILED)), {"n1"}),
        (group(STARTING, stage(0, "n0"), stage(1, "n1", S.GONE)), {"n1"}),
        (group(STARTING, stage(0, "n0"), stage(1, "n1", S.FETCHING), deadline_ms=NOW - 1), {"n1"}),
        (group(STARTING, stage(0, "n0"), stage(1, "n1"), deadline_ms=NOW - 1), {"n0", "n1"}),
        (group(STARTING, stage(0, "n0"), stage(1, "n1"), probe=probed(False)), {"n0", "n1"}),
    ],
    ids=["failed", "gone", "slow", "probe unanswered", "probe refused"],
)
def test_a_failed_start_names_the_nodes_that_it_broke_on(there, blamed):
    (move,) = [decision for decision in reconcile(state(there)) if isinstance(decision, Move)]
    assert move.blamed == blamed


def test_a_start_at_its_deadline_still_has_time():
    assert moves(reconcile(state(group(STARTING, stage(state=S.LOADING), deadline_ms=NOW)))) == []


def test_a_group_that_serves_has_no_deadline():
    assert reconcile(state(group(GroupState.STANDALONE, deadline_ms=NOW - 1))) == []


def test_a_failed_start_is_tried_again_after_the_back_off():
    again = waiting(failures=1, failed_ms=NOW - 1000)
    assert [type(decision) for decision in reconcile(state(models=[again]))] == [Start]
    early = waiting(failures=1, failed_ms=NOW - 999)
    assert reconcile(state(models=[early])) == [Wait("m", None, NOW + 1)]


def test_the_back_off_doubles_to_a_minute():
    third = waiting(failures=3, failed_ms=NOW)
    assert reconcile(state(models=[third])) == [Wait("m", None, NOW + 4000)]
    many = waiting(failures=10_000, failed_ms=NOW)
    assert reconcile(state(models=[many])) == [Wait("m", None, NOW + 60_000)]


def test_the_node_that_broke_the_last_start_is_avoided_while_another_can_do_it():
    broke = waiting(failures=1, failed_ms=NOW - 60_000, avoid=frozenset({"n0"}))
    (start,) = reconcile(state(models=[broke]))
    assert [one.node for one in start.plan.stages] == ["n1"]


def test_the_node_that_broke_is_used_again_when_there_is_no_other():
    broke = waiting(failures=1, failed_ms=NOW - 60_000, avoid=frozenset({"n0"}))
    (start,) = reconcile(state(models=[broke], nodes=[a_node("n0")]))
    assert [one.node for one in start.plan.stages] == ["n0"]


# --- eviction ---------------------------------------------------------------------------------------------------------

FULL_NODE = [a_node("n0", free_gb=(1,))]
"""One node that an idle worker of another model fills."""
IDLE = model("idle")


def idle_group(**changes) -> GroupView:
    values = {"group_id": "grp_i", "model": "idle", "plan": a_plan(name="idle")} | changes
    return group(values.pop("state", GroupState.STANDALONE), **values)


def test_the_longest_idle_worker_makes_room():
    older = idle_group(group_id="grp_a", ready_ms=NOW - 9000)
    newer = idle_group(group_id="grp_b", ready_ms=NOW - 8000)
    decisions = reconcile(state(newer, older, models=[waiting(), IDLE], nodes=FULL_NODE))
    assert moves(decisions) == [("grp_a", GroupState.DRAINING)]
    (wait,) = [decision for decision in decisions if isinstance(decision, Wait)]
    assert wait.why.reason is NoPlanReason.NO_MEMORY


@pytest.mark.parametrize(
    ("there", "other"),
    [
        (idle_group(running=1), replace(IDLE, running=1)),
        (idle_group(), replace(IDLE, running=1)),
        (idle_group(), waiting("idle", oldest_waiting_ms=NOW)),
        (idle_group(state=STARTING, ready_ms=None), IDLE),
        (idle_group(state=GroupState.CONSOLIDATING, plan=a_plan(targets=["n0"], name="idle")), IDLE),
        (idle_group(), replace(IDLE, min_replicas=1)),
        (idle_group(), replace(IDLE, warm_until_ms=NOW + 1)),
        (idle_group(model="m", group_id="grp_m", running=4), IDLE),
    ],
    ids=["busy", "model busy", "awaited", "starting", "consolidating", "min replicas", "kept warm", "its own model"],
)
def test_nothing_else_makes_room(there, other):
    loaded = group(GroupState.STANDALONE, group_id="grp_m", running=4)
    decisions = reconcile(
        state(loaded, there, models=[waiting(running=4), other], nodes=FULL_NODE)
        if there.model != "m"
        else state(there, models=[waiting(running=4), other], nodes=FULL_NODE)
    )
    assert moves(decisions) == [] or moves(decisions) == [("grp_i", GroupState.CONSOLIDATING)]


def test_an_idle_worker_of_a_busy_model_makes_room_when_the_others_can_take_all_that_runs_and_waits():
    busy = idle_group(group_id="grp_a", running=3)
    extra = idle_group(group_id="grp_b")
    there = [waiting(), replace(IDLE, running=3)]
    assert moves(reconcile(state(busy, extra, models=there, nodes=FULL_NODE))) == [("grp_b", GroupState.DRAINING)]
    # Four run at once on a worker, three do already, and two more wait.
    there = [waiting(), waiting("idle", count=2, running=3, oldest_waiting_ms=NOW)]
    assert moves(reconcile(state(busy, extra, models=there, nodes=FULL_NODE))) == []


def test_the_memory_that_a_victim_keeps_for_its_standalone_worker_counts_as_freed():
    # m needs 2 GB. Each stage has 1 GB, and 1 GB more is kept on n1 for the worker that needs all of both.
    ranks = (stage(0, "n0"), stage(1, "n1"))
    pipeline = group(
        GroupState.PIPELINE, *ranks, group_id="grp_i", model="idle",
        plan=a_plan(["n0", "n1"], ["n1"], name="idle", consolidate=drain_first("n1")),
    )  # fmt: skip
    nodes = [a_node("n0", free_gb=(0,)), a_node("n1", free_gb=(0,))]
    decisions = reconcile(state(pipeline, models=[waiting(), IDLE], nodes=nodes))
    assert moves(decisions) == [("grp_i", GroupState.DRAINING)]


@pytest.mark.parametrize(
    "leaving",
    [
        idle_group(group_id="grp_x", state=GroupState.DRAINING, drain_version=200),
        idle_group(group_id="grp_x", state=GroupState.FAILED, stopping=True),
    ],
    ids=["draining", "failed, its processes still there"],
)
def test_room_that_is_coming_already_is_waited_for(leaving):
    decisions = reconcile(state(leaving, idle_group(), models=[waiting(), IDLE], nodes=FULL_NODE))
    assert moves(decisions) == []


def test_no_worker_is_evicted_for_a_model_that_is_too_large_anyway():
    giant = waiting(spec=a_model(500))
    assert moves(reconcile(state(idle_group(), models=[giant, IDLE], nodes=FULL_NODE))) == []


def test_a_group_is_told_one_thing_in_a_pass():
    # Idle past its keep-alive and the best candidate to make room, at once.
    idle = idle_group(ready_ms=NOW - 10**6)
    decisions = reconcile(state(idle, models=[waiting(), IDLE], nodes=FULL_NODE))
    assert moves(decisions) == [("grp_i", GroupState.DRAINING)]


# --- determinism ------------------------------------------------------------------------------------------------------


def test_the_same_state_gives_the_same_decisions_in_the_same_order():
    groups = [
        group(STARTING, stage(state=S.FAILED, reason="x"), group_id="grp_1"),
        group(GroupState.STANDALONE, group_id="grp_2", ready_ms=NOW - 10**7),
        group(GroupState.DRAINING, group_id="grp_3", drain_version=5),
    ]
    models = [waiting(count=9), waiting("b"), model("c", min_replicas=1, spec=replace(SMALL, capacity=1))]
    first = reconcile(state(*groups, models=models))
    assert first
    assert first == reconcile(state(*groups, models=list(reversed(models))))


def test_ties_between_models_go_by_name():
    models = [waiting("b"), waiting("a"), waiting("c")]
    (start,) = starts(reconcile(state(models=models)))
    assert start.model == "a"
    (start,) = starts(reconcile(state(models=list(reversed(models)))))
    assert start.model == "a"
