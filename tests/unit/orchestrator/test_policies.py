"""The published algorithm and the baselines, by the paper's own examples."""

from typing import get_args

import pytest
from support.clusters import GB, GBIT, NOW, a_cluster, a_model, a_node

from orchestrator.policies import POLICIES
from orchestrator.policies.hydraserve import available_bps
from orchestrator.types import ClusterState, Fetch, NoPlan, NoPlanReason, PlanRequest, layer_group
from registry.settings import Settings

WHOLE = frozenset({"embed", "head", *(layer_group(i) for i in range(12))})


def decide(policy, model, cluster, **request):
    return POLICIES[policy].plan(PlanRequest(model=model, **request), cluster)


# The page's examples: 7B (13 GB, 7.5 s) and 13B (25 GB, 12 s), nothing measured, one instance.
@pytest.mark.parametrize(
    ("size_gb", "slo_ms", "gbps", "s", "ttft_ms"),
    [
        (13, 7500, 16, 2, 5250),
        (13, 7500, 8, 3, 6334),
        (25, 12_000, 16, 2, 8250),
        (25, 12_000, 8, 3, 10_334),
        (25, 12_000, 5.3, 4, 11_434),
    ],
)
def test_hydraserve_takes_the_sizes_that_the_paper_does(size_gb, slo_ms, gbps, s, ttft_ms):
    model = a_model(size_gb, slo_ttft_ms=slo_ms, layers=25 if size_gb == 25 else 12)
    plan = decide("hydraserve", model, a_cluster(gbps=gbps))
    assert (plan.s, plan.w, plan.degraded) == (s, 1, False)
    assert plan.predicted_ttft_ms == pytest.approx(ttft_ms, abs=2)


def test_hydraserve_degrades_to_one_whole_worker_where_there_is_most_bandwidth():
    nodes = (a_node("n0", gbps=1), a_node("n1", gbps=2), a_node("n2", gbps=1))
    plan = decide("hydraserve", a_model(), ClusterState(nodes, NOW))
    assert (plan.s, plan.degraded, plan.stages[0].node) == (1, True, "n1")


def test_hydraserve_in_a_burst_plans_as_many_whole_workers_as_are_needed():
    plan = decide("hydraserve", a_model(), a_cluster(), instances=3)
    assert (plan.s, plan.w) == (3, 3)
    assert [target.node for target in plan.consolidate.targets] == ["n0", "n1", "n2"]


def test_hydraserve_starts_where_the_whole_model_lies_and_counts_no_part_of_it():
    part = frozenset({layer_group(0), layer_group(1)})
    nodes = (a_node("n0", gbps=100, held=part), a_node("n1", gbps=1, held=WHOLE))
    plan = decide("hydraserve", a_model(), ClusterState(nodes, NOW))
    assert (plan.s, plan.stages[0].node, plan.stages[0].fetch_bytes) == (1, "n1", 0)


def test_hydraserve_gives_a_link_no_fetch_that_makes_another_late():
    tight = Fetch("f", "n0", 10 * GB, NOW + 5_500)
    loose = Fetch("f", "n0", 10 * GB, NOW + 60_000)
    late = Fetch("f", "n0", 10 * GB, NOW + 1_000)
    assert available_bps(a_node("n0", gbps=16, fetches=(tight,)), NOW) == 0
    assert available_bps(a_node("n0", gbps=16, fetches=(loose,)), NOW) == 8 * GBIT
    assert available_bps(a_node("n0", gbps=16, fetches=(late,)), NOW) == 8 * GBIT


def test_serverless_vllm_takes_the_first_device_with_room_whatever_its_link():
    nodes = (a_node("n0", free_gb=(10,)), a_node("n1", gbps=1, free_gb=(10, 40)), a_node("n2", gbps=100))
    plan = decide("serverless-vllm", a_model(), ClusterState(nodes, NOW))
    assert (plan.s, plan.stages[0].node, plan.stages[0].device) == (1, "n1", 1)


def test_serverlessllm_goes_to_what_is_held_and_has_the_device_for_itself():
    nodes = (a_node("n0", gbps=100, free_gb=(40,)), a_node("n1"), a_node("n2", gbps=1, held=WHOLE))
    plan = decide("serverlessllm", a_model(), ClusterState(nodes, NOW))
    assert (plan.stages[0].node, plan.stages[0].fetch_bytes, plan.stages[0].reserved_bytes) == ("n2", 0, 80 * GB)
    shared = ClusterState((a_node("n0", free_gb=(40,)),), NOW)
    assert decide("serverlessllm", a_model(), shared).reason is NoPlanReason.NO_MEMORY


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_says_why_it_cannot(policy):
    def refused(*nodes, model=None):
        answer = decide(policy, model or a_model(), ClusterState(tuple(nodes), NOW))
        assert isinstance(answer, NoPlan)
        return answer.reason

    assert refused() is NoPlanReason.NO_NODES
    assert refused(a_node("n0"), model=a_model(100)) is NoPlanReason.MODEL_TOO_LARGE
    assert refused(a_node("n0", free_gb=(1,))) is NoPlanReason.NO_MEMORY
    assert refused(a_node("n0", gbps=0)) is NoPlanReason.LINKS_DOWN
    assert refused(a_node("n0", cordoned=True)) is NoPlanReason.NO_NODES


def test_the_setting_knows_every_policy():
    known = Settings.model_fields["policy"].annotation
    assert set(get_args(known)) == set(POLICIES)
