"""Several kinds of device: which one a start takes, and when they are mixed in one pipeline."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clusters import GB, GBIT, NOW, a_model

from orchestrator.plan import plan
from orchestrator.together import reserved_bytes
from orchestrator.types import ClusterState, DeviceState, KindProfile, NodeState, Plan, PlanRequest, Profile

FLOORS = {"a10": 2_000, "v100": 6_000}
MODEL = replace(
    a_model(13),
    profiles=tuple(KindProfile(kind, Profile(tail_ms=1_000, runtime_floor_ms=ms)) for kind, ms in FLOORS.items()),
)
"""13 GB; over a link of 16 Gbit/s 6.5 s, over four a quarter of that."""


def node(name: str, *kinds: str, gbps: float = 16, free_gb: float = 80) -> NodeState:
    devices = (DeviceState(name, i, kind, 80 * GB, int(free_gb * GB)) for i, kind in enumerate(kinds))
    return NodeState(name, int(gbps * GBIT), tuple(devices))


def decided(slo_ms: int, *nodes: NodeState, **changes) -> Plan:
    request = PlanRequest(replace(MODEL, slo_ttft_ms=slo_ms, **changes))
    outcome = plan(request, ClusterState(nodes, NOW))
    assert isinstance(outcome, Plan)
    return outcome


def test_of_two_kinds_that_are_in_time_the_one_that_takes_less_memory_is_used():
    slow_start, quick_start = [node(f"v{i}", "v100") for i in range(4)], [node("a0", "a10", gbps=4), node("a1", "a10")]
    outcome = decided(8_500, *slow_start, *quick_start)
    assert (outcome.s, outcome.stages[0].node, outcome.degraded) == (1, "a1", False)
    outcome = decided(8_500, *slow_start, quick_start[0])
    assert outcome.stages[0].node.startswith("v")


def test_one_pipeline_over_two_kinds_where_neither_has_enough():
    nodes = [node("a0", "a10"), node("v0", "v100")]
    model = {"profiles": tuple(KindProfile(kind, Profile(tail_ms=1_000)) for kind in FLOORS)}
    alone = decided(5_000, nodes[0], **model)
    assert (alone.s, alone.degraded) == (1, True)
    outcome = decided(5_000, *nodes, **model)
    assert (outcome.s, outcome.degraded) == (2, False)
    assert {stage.node for stage in outcome.stages} == {"a0", "v0"}


def test_the_slower_kind_is_the_pipelines_time():
    outcome = decided(9_000, node("a0", "a10", gbps=8), node("v0", "v100", gbps=8), max_stages=2)
    assert (outcome.s, outcome.degraded) == (2, False)
    assert outcome.predicted_ttft_ms >= FLOORS["v100"] + 1_000


def test_a_node_with_two_kinds_takes_one_stage():
    model = {"profiles": tuple(KindProfile(kind, Profile(tail_ms=1_000)) for kind in FLOORS)}
    outcome = decided(5_000, node("n0", "a10", "v100"), node("n1", "a10", "v100"), **model)
    assert (outcome.s, outcome.degraded) == (2, False)
    assert len({stage.node for stage in outcome.stages}) == 2


def test_of_two_kinds_that_are_late_the_one_that_is_less_late_serves():
    outcome = decided(1_000, node("a0", "a10"), node("v0", "v100", gbps=32))
    assert outcome.degraded
    assert outcome.stages[0].node == "v0"


@pytest.mark.parametrize(("slo_ms", "where"), [(60_000, "g0"), (4_000, "c0"), (100, "g0")])
def test_cpus_are_for_what_no_accelerator_can_take_in_time(slo_ms, where):
    nodes = (node("g0", "a10", gbps=4), node("c0", "cpu", gbps=64))
    assert decided(slo_ms, *nodes).stages[0].node == where


def test_a_cpu_serves_where_accelerators_are_full():
    outcome = decided(60_000, node("g0", "a10", free_gb=1), node("c0", "cpu"))
    assert outcome.stages[0].node == "c0"


made = st.lists(st.tuples(st.sampled_from(["a10", "v100"]), st.integers(4, 32), st.integers(1, 80)), min_size=1)


@given(made, st.integers(1_000, 20_000))
def test_a_second_kind_never_makes_a_start_worse(made, slo_ms):
    nodes = [node(f"n{i}", kind, gbps=gbps, free_gb=free) for i, (kind, gbps, free) in enumerate(made)]
    request = PlanRequest(replace(MODEL, slo_ttft_ms=slo_ms))
    both = plan(request, ClusterState(tuple(nodes), NOW))
    for kind in FLOORS:
        alone = plan(request, ClusterState(tuple(one for one in nodes if one.devices[0].kind == kind), NOW))
        if isinstance(alone, Plan):
            assert isinstance(both, Plan)
        if isinstance(alone, Plan) and not alone.degraded:
            assert not both.degraded
            assert reserved_bytes(both) <= reserved_bytes(alone)
