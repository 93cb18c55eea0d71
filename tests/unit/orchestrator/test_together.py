"""Several models that are to start at one moment: most of them in time, with least memory, and nobody passed over."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from support.clusters import GB, NOW, a_model, a_node, clusters, models
from support.control_state import state, waiting

from orchestrator.control import Start
from orchestrator.deadlines import late
from orchestrator.plan import plan
from orchestrator.policies import HYDRANT
from orchestrator.reconcile import TOGETHER_MS, reconcile
from orchestrator.together import MOST, begun_on, in_turn, reserved_bytes
from orchestrator.types import ClusterState, Plan, PlanRequest

FAST, SLOW = a_node("fast", gbps=32), a_node("slow", gbps=16)
"""4 and 2 GB/s."""
SMALL, LARGE = (a_model(size, name=name, slo_ttft_ms=8_000) for name, size in (("small", 8), ("large", 20)))
"""Within the 6 s that are left for it, the large one comes over the fast link alone, the small one over either."""


def taken(order, wanted):
    """What is started in time in that order, and the device memory that it takes."""
    begun = []
    for position, i in enumerate(order):
        request, cluster = wanted[i]
        outcome = plan(replace(request, frugal=len(order) - position > 1), begun_on(cluster, begun))
        if isinstance(outcome, Plan) and not outcome.degraded:
            begun.append(outcome)
    return len(begun), sum(map(reserved_bytes, begun))


def test_a_small_model_leaves_the_fast_link_to_the_one_that_needs_it() -> None:
    cluster = ClusterState((FAST, SLOW), NOW)
    alone = plan(PlanRequest(SMALL), cluster)
    assert [stage.node for stage in alone.stages] == ["fast"], "where nobody else starts it is ready sooner there"
    frugal = plan(PlanRequest(SMALL, frugal=True), cluster)
    assert [stage.node for stage in frugal.stages] == ["slow"]
    then = plan(PlanRequest(LARGE), begun_on(cluster, [frugal]))
    assert ([stage.node for stage in then.stages], then.degraded) == (["fast"], False)


def test_a_frugal_start_that_would_be_just_in_time_is_not_risked() -> None:
    cluster = ClusterState((FAST, a_node("slow", gbps=11)), NOW)
    assert [stage.node for stage in plan(PlanRequest(SMALL, frugal=True), cluster).stages] == ["fast"]


def test_the_order_is_the_one_in_which_most_are_in_time() -> None:
    """The middle one needs the fast link whole, or both; after the large one there is time for neither."""
    cluster = ClusterState((FAST,), NOW)
    wanted = [(PlanRequest(one), cluster) for one in (LARGE, SMALL, replace(SMALL, name="other"))]
    order = in_turn(wanted, plan)
    assert order == [1, 2, 0]
    assert taken(order, wanted)[0] == 2
    assert taken([0, 1, 2], wanted)[0] == 1


def test_where_it_makes_no_difference_the_order_stays() -> None:
    cluster = ClusterState(tuple(a_node(f"n{i}") for i in range(4)), NOW)
    assert in_turn([(PlanRequest(replace(SMALL, name=name)), cluster) for name in "abcd"], plan) == [0, 1, 2, 3]
    hopeless = replace(SMALL, slo_ttft_ms=1)
    assert in_turn([(PlanRequest(replace(hopeless, name=name)), cluster) for name in "ab"], plan) == [0, 1]


@settings(max_examples=60)
@given(clusters(), st.lists(models, min_size=2, max_size=3))
def test_no_other_order_has_more_in_time_or_takes_less(cluster, wanted_models) -> None:
    named = [replace(one, name=f"m{i}") for i, one in enumerate(wanted_models)]
    wanted = [(PlanRequest(one), cluster) for one in named]
    order = in_turn(wanted, plan)
    assert sorted(order) == list(range(len(wanted)))
    count, size = taken(order, wanted)
    given_count, given_size = taken(range(len(wanted)), wanted)
    assert (-count, size) <= (-given_count, given_size)


@settings(max_examples=60)
@given(clusters(), st.lists(models, min_size=1, max_size=3))
def test_what_has_begun_fits_and_makes_no_fetch_late(cluster, wanted_models) -> None:
    begun = []
    for i, one in enumerate(wanted_models):
        outcome = plan(PlanRequest(replace(one, name=f"m{i}"), frugal=True), begun_on(cluster, begun))
        if isinstance(outcome, Plan):
            begun.append(outcome)
    then = begun_on(cluster, begun)
    for before, after in zip(cluster.nodes, then.nodes, strict=True):
        free = [sum(device.free_bytes for device in node.devices) for node in (before, after)]
        here = [stage for one in begun for stage in one.stages if stage.node == after.name]
        targets = [target for one in begun if one.consolidate for target in one.consolidate.targets]
        held = sum(stage.reserved_bytes for stage in here)
        held += sum(target.reserved_bytes for target in targets if target.node == after.name)
        assert free[0] - free[1] == held
        if before.link_bps:
            late_before = late(before.link_bps, before.fetches, cluster.now_ms)
            assert late(after.link_bps, after.fetches, cluster.now_ms) == late_before


# --- in the controller's decision -------------------------------------------------------------------------------------


def started(*views, **changes):
    found = [one for one in reconcile(state(models=views, nodes=[FAST, SLOW], **changes)) if isinstance(one, Start)]
    return found[0].model, [stage.node for stage in found[0].plan.stages]


def test_of_those_that_came_together_the_one_that_suits_all_is_started_first() -> None:
    small, large = waiting("small", spec=SMALL), waiting("large", spec=LARGE, oldest_waiting_ms=NOW - 999)
    assert started(small, large) == ("small", ["slow"])
    assert started(small) == ("small", ["fast"])


def test_one_that_came_later_passes_nobody() -> None:
    only = replace(LARGE, slo_ttft_ms=7_500)
    first = waiting("large", spec=only, oldest_waiting_ms=NOW - 2 * TOGETHER_MS)
    later = waiting("small", spec=SMALL, oldest_waiting_ms=NOW)
    assert started(first, later)[0] == "large"


def test_only_a_few_are_looked_at_together(monkeypatch) -> None:
    looked = []
    monkeypatch.setattr("orchestrator.reconcile.in_turn", lambda wanted, plan: looked.append(len(wanted)) or [0])
    views = [waiting(f"m{i}", spec=SMALL) for i in range(MOST + 3)]
    reconcile(state(models=views))
    reconcile(state(models=views[:1]))
    reconcile(state(models=views), replace(HYDRANT, together=False))
    assert looked == [MOST]


def test_memory_is_counted_in_bytes_of_stages_and_of_workers_to_come() -> None:
    outcome = plan(PlanRequest(a_model()), ClusterState(tuple(a_node(f"n{i}") for i in range(2)), NOW))
    assert isinstance(outcome, Plan)
    assert outcome.s == 2
    assert reserved_bytes(outcome) > 2 * 13 * GB
