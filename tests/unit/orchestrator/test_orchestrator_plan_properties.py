"""What holds for every plan, whatever the model and the cluster."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.clusters import bursts_and_splits, clusters, models

from orchestrator import deadlines, memory, placement
from orchestrator.explain import explain
from orchestrator.partition import split
from orchestrator.plan import plan
from orchestrator.types import (
    ClusterState,
    ConsolidationMode,
    Fetch,
    NodeState,
    NoPlan,
    NoPlanReason,
    Plan,
    PlanRequest,
    Verdict,
    outcome_from_json,
)

requests = st.builds(PlanRequest, model=models, instances=st.integers(1, 6), waited_ms=st.integers(0, 20_000))
cases = bursts_and_splits() | st.tuples(requests, clusters(roomy=True))


def planned(request: PlanRequest, cluster: ClusterState) -> Plan:
    outcome = plan(request, cluster)
    assume(isinstance(outcome, Plan))
    assert isinstance(outcome, Plan)
    return outcome


def kind_of(outcome: Plan, cluster: ClusterState) -> str:
    """The kind of device that a plan is for: it never mixes them."""
    first = outcome.stages[0]
    return next(d.kind for n in cluster.nodes for d in n.devices if (d.node, d.index) == (first.node, first.device))


@given(cases)
def test_a_device_is_never_promised_more_than_it_has_free(case):
    request, cluster = case
    outcome = planned(request, cluster)
    promised: Counter[tuple[str, int]] = Counter()
    for stage in outcome.stages:
        promised[stage.node, stage.device] += stage.reserved_bytes
    for target in outcome.consolidate.targets if outcome.consolidate else ():
        promised[target.node, target.device] += target.reserved_bytes
    free = {(d.node, d.index): d.free_bytes for node in cluster.nodes for d in node.devices}
    assert all(promised[device] <= free[device] for device in promised)


@given(cases)
def test_stages_are_on_different_nodes_and_cover_every_layer(case):
    request, cluster = case
    outcome = planned(request, cluster)
    assert len({stage.node for stage in outcome.stages}) == len(outcome.stages) == outcome.s
    assert [stage.rank for stage in outcome.stages] == list(range(outcome.s))
    covered = [i for stage in outcome.stages for i in range(stage.first_layer, stage.first_layer + stage.layer_count)]
    assert covered == list(range(request.model.layers))


@given(cases)
def test_every_full_stage_has_a_place_for_its_standalone_worker(case):
    request, cluster = case
    outcome = planned(request, cluster)
    full = [stage for stage in outcome.stages if stage.full]
    if outcome.s == 1:
        assert outcome.consolidate is None
        assert outcome.stages[0].reserved_bytes == memory.full_bytes(request.model, kind_of(outcome, cluster))
        return
    assert outcome.consolidate is not None
    assert [t.rank for t in outcome.consolidate.targets] == [stage.rank for stage in full]
    assert len(full) == outcome.w
    for stage, target in zip(full, outcome.consolidate.targets, strict=True):
        assert target.node == stage.node
        assert (target.device == stage.device) == (target.mode is not ConsolidationMode.OTHER_DEVICE)
        assert target.memory_bytes == memory.full_bytes(request.model, kind_of(outcome, cluster))
        available = target.reserved_bytes
        if target.mode is ConsolidationMode.DRAIN_FIRST:
            available += stage.reserved_bytes
        assert available >= target.memory_bytes


@given(cases)
def test_no_stage_lands_on_a_cordoned_node_or_without_ports_and_kinds_are_not_mixed(case):
    request, cluster = case
    outcome = planned(request, cluster)
    by_name = {node.name: node for node in cluster.nodes}
    kinds = set()
    for stage in outcome.stages:
        node = by_name[stage.node]
        assert not node.cordoned
        assert node.free_ports >= 1 + (outcome.s > 1 and stage.rank == 0) + (outcome.s > 1 and stage.full)
        kinds |= {device.kind for device in node.devices if device.index == stage.device}
    assert len(kinds) == 1


@given(cases)
def test_no_fetch_of_a_plan_makes_an_admitted_one_late(case):
    request, cluster = case
    outcome = planned(request, cluster)
    for stage in outcome.stages:
        node = next(node for node in cluster.nodes if node.name == stage.node)
        (part,) = [p for p in split(request.model, outcome.s) if p.first == stage.first_layer]
        assert stage.fetch_bytes == part.missing_bytes(request.model, node.held)
        if stage.fetch_bytes == 0:
            continue
        before = deadlines.late(node.link_bps, node.fetches, cluster.now_ms)
        fetches = (*node.fetches, Fetch("new", node.name, stage.fetch_bytes, stage.deadline_ms))
        assert deadlines.late(node.link_bps, fetches, cluster.now_ms) == before


@given(cases)
def test_a_plan_meets_its_service_levels_or_says_that_it_does_not(case):
    request, cluster = case
    outcome = planned(request, cluster)
    slow = outcome.predicted_ttft_ms >= request.model.slo_ttft_ms
    limit = request.model.slo_tpot_ms
    if outcome.predicted_tpot_ms is not None and limit is not None:
        slow = slow or outcome.predicted_tpot_ms > limit
    assert outcome.degraded == slow
    if outcome.degraded:
        assert outcome.s == 1
    (chosen,) = (c for c in outcome.candidates if c.verdict is Verdict.CHOSEN)
    assert (chosen.s, chosen.w) == (outcome.s, outcome.w)


@given(requests, clusters())
def test_the_same_question_has_the_same_answer_in_any_order_of_nodes(request, cluster):
    again = ClusterState(tuple(reversed(cluster.nodes)), cluster.now_ms)
    assert plan(request, cluster) == plan(request, again)


@settings(max_examples=50)
@given(bursts_and_splits(), st.integers(5, 8))
def test_looking_at_a_few_of_many_like_nodes_changes_nothing(case, copies):
    request, cluster = case
    many = ClusterState(
        tuple(_copy(node, f"{node.name}-{i}") for node in cluster.nodes for i in range(copies)), cluster.now_ms
    )
    shortened = plan(request, many)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.plan.distinct", lambda sites, limit: sites)
        assert plan(request, many) == shortened


def _copy(node: NodeState, name: str) -> NodeState:
    return replace(
        node,
        name=name,
        devices=tuple(replace(device, node=name) for device in node.devices),
        fetches=tuple(replace(fetch, node=name) for fetch in node.fetches),
    )


@settings(max_examples=200)
@given(cases)
def test_looking_only_at_the_nodes_that_would_be_ready_first_changes_nothing(case):
    """Against a planner that lets every node make an offer."""
    request, cluster = case

    def every(self, need, without, count):
        seats = ((site.node, need.seat(site)) for site in self._sites[need.kind] if site.node.name not in without)
        return [placement._offer(need, node, seat) for node, seat in seats if seat is not None]

    few = plan(request, cluster)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement.Placer, "_best", every)
        patch.setattr("orchestrator.plan.distinct", lambda nodes, limit: list(nodes))
        assert plan(request, cluster) == few


@given(requests, clusters())
def test_an_outcome_survives_storage_and_can_be_put_into_words(request, cluster):
    outcome = plan(request, cluster)
    assert outcome_from_json(outcome.to_json()) == outcome
    assert PlanRequest.from_json(request.to_json()) == request
    assert ClusterState.from_json(cluster.to_json()) == cluster
    lines = explain(outcome)
    assert lines[0].startswith("m: ")
    assert all("{" not in line for line in lines)


@given(requests, clusters())
def test_a_refusal_is_true(request, cluster):
    """When nothing is planned, no node could have taken a whole worker on its own."""
    outcome = plan(request, cluster)
    if isinstance(outcome, Plan):
        return
    for node in cluster.nodes:
        fits = any(d.free_bytes >= memory.full_bytes(request.model, d.kind) for d in node.devices)
        if node.cordoned or node.free_ports < 1 or not fits:
            continue
        (whole,) = split(request.model, 1)
        missing = whole.missing_bytes(request.model, node.held)
        assert missing > 0
        assert node.link_bps == 0
    if outcome.reason is NoPlanReason.MODEL_TOO_LARGE:
        assert outcome.retry_after_ms is None


@settings(max_examples=50)
@given(cases, st.integers(2, 10))
def test_a_faster_link_never_needs_a_larger_pipeline_for_one_instance(case, factor):
    """With idle links, s for one instance can only fall as the links get faster."""
    request, cluster = case
    one = PlanRequest(request.model, 1, request.waited_ms)
    idle = ClusterState(
        tuple(replace(node, link_bps=node.link_bps, fetches=()) for node in cluster.nodes), cluster.now_ms
    )
    fast = ClusterState(
        tuple(replace(node, link_bps=node.link_bps * factor, fetches=()) for node in cluster.nodes), cluster.now_ms
    )
    slow_plan, fast_plan = plan(one, idle), plan(one, fast)
    if isinstance(slow_plan, NoPlan) or slow_plan.degraded:
        return
    assert isinstance(fast_plan, Plan)
    assert not fast_plan.degraded
    if len({device.kind for node in cluster.nodes if not node.cordoned for device in node.devices}) == 1:
        assert fast_plan.s <= slow_plan.s


@settings(max_examples=50)
@given(cases)
def test_no_smaller_pipeline_would_have_been_good_enough(case):
    """For one instance the chosen size is the smallest one that meets the service levels."""
    request, cluster = case
    one = PlanRequest(request.model, 1, request.waited_ms)
    outcome = planned(one, cluster)
    if outcome.degraded or outcome.s == 1:
        return
    kinds = {device.kind for node in cluster.nodes if not node.cordoned for device in node.devices}
    assume(len(kinds) == 1)
    smaller = plan(one, cluster, max_stages=outcome.s - 1)
    assert isinstance(smaller, NoPlan) or smaller.degraded
