"""The store's egress is a link like any other: what all nodes fetch from it together takes at least so long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clusters import GBIT, NOW, a_model, a_node
from support.control_state import SMALL, model, state, waiting

from orchestrator.control import Start
from orchestrator.explain import explain
from orchestrator.plan import plan
from orchestrator.reconcile import reconcile
from orchestrator.types import ClusterState, Fetch, Plan, PlanRequest, ReasonCode, StoreState

LLAMA = a_model(13)
NODES = tuple(a_node(f"n{i}", gbps=16) for i in range(4))


def planned(slo_ms, gbps=None, *fetches):
    store = None if gbps is None else StoreState("s3://weights", int(gbps * GBIT), fetches)
    request = PlanRequest(a_model(13, slo_ttft_ms=slo_ms))
    outcome = plan(request, ClusterState(NODES, NOW, store=store))
    assert isinstance(outcome, Plan)
    return outcome


def test_a_store_that_gives_enough_changes_nothing():
    assert planned(6_000, 64).stages == planned(6_000).stages


def test_more_links_than_the_store_can_fill_are_of_no_use():
    free = planned(6_000)
    assert free.s > 1
    bound = planned(6_000, 16)
    assert (bound.s, bound.degraded) == (1, True), "four links of 16 Gbit/s, and 16 Gbit/s to share"
    half = planned(6_000, 32)
    assert (half.s, half.degraded) == (2, False)
    assert half.predicted_ttft_ms >= LLAMA.weights_bytes * 1000 // int(32 * GBIT)


def test_a_plan_says_that_the_store_is_the_limit():
    bound = planned(6_000, 16)
    assert ReasonCode.STORE not in {reason.code for reason in planned(6_000, 64).reasons}
    slower = planned(60_000, 4)
    assert ReasonCode.STORE in {reason.code for reason in slower.reasons}
    assert any("The store gives no more" in line for line in explain(slower))
    assert bound.degraded


def test_what_others_fetch_from_it_is_waited_for():
    ahead = Fetch("other", "elsewhere", int(16 * GBIT), NOW + 1)
    alone, behind = planned(60_000, 16), planned(60_000, 16, ahead)
    assert behind.predicted_ttft_ms == pytest.approx(alone.predicted_ttft_ms + 1_000, abs=2)


@given(st.integers(1, 200), st.integers(2_000, 60_000))
def test_a_prediction_is_never_below_what_the_store_needs(gbps, slo_ms):
    outcome = planned(slo_ms, gbps)
    fetched = sum(stage.fetch_bytes for stage in outcome.stages)
    assert outcome.predicted_ttft_ms >= fetched * 1000 // int(gbps * GBIT)
    assert outcome.predicted_ttft_ms >= planned(slo_ms).predicted_ttft_ms or outcome.s > planned(slo_ms).s


def test_the_controller_goes_by_the_store_of_the_model():
    slow = {"s3://slow": StoreState("s3://slow", GBIT // 100)}
    near, far = (waiting("m", spec=SMALL, store=name) for name in ("s3://quick", "s3://slow"))
    (quick,) = [one for one in reconcile(state(models=[near], stores=slow)) if isinstance(one, Start)]
    (late,) = [one for one in reconcile(state(models=[far], stores=slow)) if isinstance(one, Start)]
    assert late.plan.predicted_ttft_ms > 10 * quick.plan.predicted_ttft_ms
    assert model().store == ""
