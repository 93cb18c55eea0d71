"""Plans for cases worked out by hand, among them the ones that follow from the paper's formulas."""

from dataclasses import replace

import pytest
from support.clusters import GB, GBIT, NOW, PAPER_PROFILE, a_cluster, a_model, a_node

from orchestrator.plan import plan
from orchestrator.types import (
    ClusterState,
    ConsolidationMode,
    Fetch,
    ModelSpec,
    NoPlan,
    NoPlanReason,
    Plan,
    PlanRequest,
    Reason,
    ReasonCode,
    Verdict,
    layer_group,
)

ALL_GROUPS = frozenset({"embed", "head", *(layer_group(i) for i in range(12))})


def planned(
    model: ModelSpec, cluster: ClusterState, *, instances: int = 1, waited_ms: int = 0, max_stages: int = 4
) -> Plan:
    outcome = plan(PlanRequest(model, instances, waited_ms), cluster, max_stages)
    assert isinstance(outcome, Plan), outcome
    return outcome


def refused(model: ModelSpec, cluster: ClusterState) -> NoPlan:
    outcome = plan(PlanRequest(model), cluster)
    assert isinstance(outcome, NoPlan), outcome
    return outcome


def codes(outcome: Plan) -> list[ReasonCode]:
    return [reason.code for reason in outcome.reasons]


@pytest.mark.parametrize(
    ("size_gb", "slo_ms", "gbps", "stages", "ttft_ms"),
    [
        (13, 7500, 16, 2, 5250),
        (13, 7500, 8, 3, 6334),
        (25, 12_000, 16, 2, 8250),
        (25, 12_000, 8, 3, 10_334),
        (25, 12_000, 5.3, 4, 11_434),
    ],
)
def test_the_papers_own_cases_come_out_as_its_formulas_say(size_gb, slo_ms, gbps, stages, ttft_ms):
    outcome = planned(a_model(size_gb, slo_ttft_ms=slo_ms), a_cluster(gbps=gbps))
    assert (outcome.s, outcome.w, outcome.degraded) == (stages, 1, False)
    assert outcome.predicted_ttft_ms == pytest.approx(ttft_ms, abs=1)


# --- one thing changes, and the plan with it --------------------------------------------------------------------------


def test_only_the_link_is_faster_and_one_worker_is_enough():
    slow, fast = planned(a_model(), a_cluster(gbps=16)), planned(a_model(), a_cluster(gbps=160))
    assert (slow.s, fast.s) == (2, 1)


def test_only_the_service_level_is_tighter_and_more_stages_are_needed():
    sizes = [planned(a_model(slo_ttft_ms=slo), a_cluster()).s for slo in (9000, 7500, 5000, 4000)]
    assert sizes == [1, 2, 3, 4]


def test_the_service_level_is_a_bound_that_is_not_reached():
    assert planned(a_model(slo_ttft_ms=5251), a_cluster()).s == 2
    assert planned(a_model(slo_ttft_ms=5250), a_cluster()).s == 3


def test_only_the_free_memory_shrinks_and_the_plan_moves():
    roomy = ClusterState(tuple(a_node(f"n{i}") for i in range(3)), NOW)
    tight = ClusterState((a_node("n0", free_gb=(10,)), *roomy.nodes[1:]), NOW)
    assert planned(a_model(), roomy).stages[0].node == "n0"
    after = planned(a_model(), tight)
    assert [(stage.node, stage.full) for stage in after.stages] == [("n1", True), ("n0", False)]
    assert refused(a_model(), a_cluster(free_gb=(10,))).reason is NoPlanReason.NO_MEMORY


def test_only_the_wait_grows_and_more_stages_make_up_for_it():
    assert planned(a_model(), a_cluster()).s == 2
    waiting = planned(a_model(), a_cluster(), waited_ms=3000)
    assert waiting.s == 3
    assert Reason(ReasonCode.WAITED, {"waited_ms": 3000}) in waiting.reasons
    assert planned(a_model(), a_cluster(), waited_ms=7500).degraded


def test_a_wait_that_is_nothing_in_words_is_no_reason():
    reasons = [planned(a_model(), a_cluster(), waited_ms=waited).reasons for waited in (99, 100)]
    assert [ReasonCode.WAITED in {reason.code for reason in told} for told in reasons] == [False, True]


def test_only_the_runtime_floor_rises_and_splitting_cannot_help():
    slow_runtime = a_model(profile=replace(PAPER_PROFILE, runtime_floor_ms=6000))
    outcome = planned(slow_runtime, a_cluster())
    assert outcome.degraded
    assert {c.floor_ms for c in outcome.candidates} == {6000}


def test_the_fetch_hides_behind_the_runtime_and_is_not_added_to_it():
    outcome = planned(a_model(profile=replace(PAPER_PROFILE, runtime_floor_ms=3000)), a_cluster())
    assert outcome.predicted_ttft_ms == 5250
    outcome = planned(a_model(profile=replace(PAPER_PROFILE, runtime_floor_ms=4000)), a_cluster())
    assert outcome.predicted_ttft_ms == 6000


def test_each_further_stage_raises_the_floor_where_that_was_measured():
    profile = replace(PAPER_PROFILE, runtime_floor_ms=3000, per_stage_floor_ms=1500)
    assert planned(a_model(profile=profile), a_cluster()).predicted_ttft_ms == 3000 + 1500 + 2000


def test_prefill_counts_once_it_is_measured():
    profile = replace(PAPER_PROFILE, prefill_ms=400)
    # k(2, 1) = 1 + 1/2
    assert planned(a_model(profile=profile), a_cluster()).predicted_ttft_ms == 5250 + 600


def test_a_token_rate_that_one_full_worker_cannot_hold_takes_two():
    profile = replace(PAPER_PROFILE, tpot_ms=42)
    outcome = planned(a_model(profile=profile, slo_tpot_ms=50), a_cluster())
    assert (outcome.s, outcome.w) == (2, 2)
    assert outcome.predicted_tpot_ms == 43
    assert {(c.s, c.w): c.verdict for c in outcome.candidates}[2, 1] is Verdict.TPOT_TOO_LONG


# --- bursts and degradation -------------------------------------------------------------------------------------------


def test_a_burst_gets_as_many_stages_as_instances_with_room_for_a_worker_on_each():
    outcome = planned(a_model(), a_cluster(), instances=3)
    assert (outcome.s, outcome.w) == (3, 3)
    assert outcome.consolidate is not None
    assert len(outcome.consolidate.targets) == 3
    assert ReasonCode.BURST in codes(outcome)


def test_a_burst_takes_what_there_is():
    outcome = planned(a_model(), a_cluster(2), instances=4)
    assert (outcome.s, outcome.w) == (2, 2)
    assert ReasonCode.FEWER_INSTANCES in codes(outcome)


def test_no_reachable_service_level_degrades_to_one_whole_worker_and_says_so():
    outcome = planned(a_model(slo_ttft_ms=100), a_cluster())
    assert (outcome.s, outcome.w, outcome.degraded) == (1, 1, True)
    assert codes(outcome)[0] is ReasonCode.DEGRADED
    assert outcome.stages[0].deadline_ms == NOW + 2 * 6500
    unreachable_rate = a_model(profile=replace(PAPER_PROFILE, tpot_ms=80), slo_tpot_ms=50)
    assert planned(unreachable_rate, a_cluster()).degraded


def test_the_fetch_deadline_leaves_what_follows_the_fetch():
    outcome = planned(a_model(), a_cluster(), waited_ms=500)
    assert {stage.deadline_ms for stage in outcome.stages} == {NOW + 7500 - 500 - 2000}


def test_a_model_is_never_split_further_than_it_allows():
    assert planned(a_model(max_stages=2, slo_ttft_ms=4000), a_cluster()).degraded
    assert planned(a_model(layers=1, slo_ttft_ms=4000), a_cluster()).degraded
    assert planned(a_model(slo_ttft_ms=4000), a_cluster(), max_stages=3).degraded
    with pytest.raises(ValueError, match="max_stages"):
        plan(PlanRequest(a_model()), a_cluster(), 0)


# --- placement --------------------------------------------------------------------------------------------------------


def test_the_fastest_links_are_taken():
    cluster = ClusterState(tuple(a_node(f"n{i}", gbps=gbps) for i, gbps in enumerate((4, 16, 8, 16))), NOW)
    assert [stage.node for stage in planned(a_model(), cluster).stages] == ["n1", "n3"]


def test_what_a_node_holds_is_not_fetched_again():
    holder = a_node("z", gbps=0.1, held=ALL_GROUPS)
    outcome = planned(a_model(), ClusterState((*a_cluster().nodes, holder), NOW))
    assert (outcome.s, outcome.stages[0].node) == (1, "z")
    assert (outcome.stages[0].fetch_bytes, outcome.stages[0].rate_bps) == (0, 0)
    assert outcome.predicted_ttft_ms == 2000
    assert ReasonCode.HELD in codes(outcome)


def test_a_node_without_a_link_can_still_serve_what_it_holds():
    only = a_node("z", gbps=0, held=ALL_GROUPS)
    assert planned(a_model(), ClusterState((only,), NOW)).stages[0].node == "z"
    assert refused(a_model(), ClusterState((a_node("z", gbps=0),), NOW)).reason is NoPlanReason.LINKS_DOWN


def test_a_warm_node_is_preferred_to_one_that_must_import_everything():
    model = a_model(profile=replace(PAPER_PROFILE, plain_start_ms=20_000), slo_ttft_ms=30_000)
    cold, warm = a_node("a", warm=False), a_node("b")
    assert planned(model, ClusterState((cold, warm), NOW)).stages[0].node == "b"
    alone = planned(model, ClusterState((cold,), NOW))
    assert alone.predicted_ttft_ms == 22_000
    assert ReasonCode.PLAIN_START in codes(alone)


def test_the_device_that_fits_best_is_taken_within_a_node_and_between_equal_nodes():
    cluster = ClusterState((a_node("a", free_gb=(80, 20, 30)), a_node("b", free_gb=(19, 80))), NOW)
    (stage,) = planned(a_model(slo_ttft_ms=9000), cluster).stages
    assert (stage.node, stage.device) == ("b", 0)


def test_a_cordoned_node_takes_nothing():
    nodes = a_cluster(2).nodes
    outcome = planned(a_model(slo_ttft_ms=9000), ClusterState((replace(nodes[0], cordoned=True), nodes[1]), NOW))
    assert outcome.stages[0].node == "n1"
    all_cordoned = ClusterState(tuple(replace(node, cordoned=True) for node in nodes), NOW)
    no = refused(a_model(), all_cordoned)
    assert (no.reason, no.detail) == (NoPlanReason.NO_NODES, {"cordoned": 2})
    assert no.retry_after_ms is None


def test_a_pipeline_does_not_mix_accelerators_and_cpus_and_prefers_accelerators():
    mixed = ClusterState((a_node("a", kind="cpu"), a_node("b", kind="cuda"), a_node("c", kind="cpu")), NOW)
    outcome = planned(a_model(), mixed)
    assert [stage.node for stage in outcome.stages] == ["a", "c"]
    assert [stage.node for stage in planned(a_model(slo_ttft_ms=9000), mixed).stages] == ["b"]


# --- where the standalone worker goes ---------------------------------------------------------------------------------


def target_of(outcome: Plan):
    assert outcome.consolidate is not None
    (target,) = outcome.consolidate.targets
    return target


def test_the_standalone_worker_starts_beside_its_stage_when_both_fit():
    outcome = planned(a_model(context_bytes=GB), a_cluster(free_gb=(30,)))
    target = target_of(outcome)
    assert target.mode is ConsolidationMode.BESIDE_STAGE
    # M + K + (M + K)/2 and two contexts
    assert outcome.stages[0].reserved_bytes + target.reserved_bytes == pytest.approx((18 + 9 + 2) * GB, abs=12)
    assert target.fetch_bytes == pytest.approx(6.5 * GB, abs=12)


def test_it_takes_another_device_of_the_node_when_one_cannot_hold_both():
    outcome = planned(a_model(), a_cluster(free_gb=(20, 10)))
    target = target_of(outcome)
    assert target.mode is ConsolidationMode.OTHER_DEVICE
    assert (outcome.stages[0].device, target.device) == (1, 0)


def test_it_waits_for_the_pipeline_to_drain_when_there_is_no_other_room():
    outcome = planned(a_model(), a_cluster(free_gb=(20,)))
    target = target_of(outcome)
    assert target.mode is ConsolidationMode.DRAIN_FIRST
    assert outcome.stages[0].reserved_bytes + target.reserved_bytes == target.memory_bytes
    assert ReasonCode.DRAIN_FIRST in codes(outcome)


def test_a_node_that_can_hold_both_is_preferred_to_one_that_must_drain_first():
    cluster = ClusterState((a_node("a", free_gb=(20,)), a_node("b", free_gb=(20,)), a_node("c", free_gb=(40,))), NOW)
    outcome = planned(a_model(), cluster)
    assert target_of(outcome).node == "c"
    assert target_of(outcome).mode is ConsolidationMode.BESIDE_STAGE


def test_what_the_node_already_holds_is_not_fetched_for_the_standalone_worker():
    late_layers = frozenset(layer_group(i) for i in range(8, 12))
    cluster = ClusterState((a_node("a", held=late_layers), a_node("b", free_gb=(10,))), NOW)
    model = a_model(slo_ttft_ms=6300)
    outcome = planned(model, cluster)
    assert (outcome.s, target_of(outcome).node) == (2, "a")
    # Its own stage brings layers 0 to 5 and it holds 8 to 11: layers 6 and 7 are missing.
    assert target_of(outcome).fetch_bytes == 2 * model.layer_bytes[0]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_model_larger_than_any_device_is_refused_for_good():
    no = refused(a_model(90), a_cluster())
    assert no.reason is NoPlanReason.MODEL_TOO_LARGE
    assert no.retry_after_ms is None
    assert no.detail["largest_bytes"] == 80 * GB


def test_a_busy_link_is_not_taken_from_the_fetch_that_needs_it():
    def loaded(name: str) -> Fetch:
        return Fetch(f"tight-{name}", name, 2 * GB, NOW + 1000)

    cluster = ClusterState(tuple(a_node(f"n{i}", fetches=(loaded(f"n{i}"),)) for i in range(2)), NOW)
    behind = planned(a_model(), cluster)
    (chosen,) = (candidate for candidate in behind.candidates if candidate.verdict is Verdict.CHOSEN)
    alone = planned(a_model(), a_cluster(2))
    (free,) = (candidate for candidate in alone.candidates if candidate.verdict is Verdict.CHOSEN)
    assert (behind.s, chosen.fetch_ms) == (alone.s, free.fetch_ms + 1000)
    one_free = ClusterState((cluster.nodes[0], a_node("n1"), a_node("n2")), NOW)
    assert [stage.node for stage in planned(a_model(), one_free).stages] == ["n1", "n2"]


def test_a_relaxed_fetch_lets_an_urgent_one_go_first():
    relaxed = (Fetch("background", "n0", 100 * GB, NOW + 10**6),)
    outcome = planned(a_model(slo_ttft_ms=20_000), ClusterState((a_node("n0", fetches=relaxed),), NOW))
    assert outcome.predicted_ttft_ms == 6500 + 2000
    assert outcome.stages[0].rate_bps == pytest.approx(16 * GBIT, rel=0.001)


def test_a_start_behind_a_fetch_that_is_more_urgent_counts_its_bytes():
    urgent = (Fetch("urgent", "n0", 2 * GB, NOW + 1000),)
    outcome = planned(a_model(slo_ttft_ms=20_000), ClusterState((a_node("n0", fetches=urgent),), NOW))
    assert outcome.predicted_ttft_ms == 1000 + 6500 + 2000


def test_a_cluster_without_ports_is_refused():
    no = refused(a_model(), a_cluster(free_ports=0))
    assert (no.reason, no.retry_after_ms) == (NoPlanReason.NO_PORTS, 2000)
    # One port is enough for a worker, not for the first stage of a pipeline.
    assert planned(a_model(), a_cluster(free_ports=1)).degraded


def test_an_empty_cluster_is_refused():
    assert refused(a_model(), ClusterState((), NOW)).reason is NoPlanReason.NO_NODES
    assert refused(a_model(), ClusterState((a_node("n0", free_gb=()),), NOW)).reason is NoPlanReason.NO_NODES
