"""Bad numbers are named, and what was stored can be read again."""

import json
import math
from dataclasses import replace

import pytest
from support.clusters import GB, NOW, a_cluster, a_model, a_node

from orchestrator.plan import plan
from orchestrator.types import (
    ClusterState,
    DeviceState,
    Fetch,
    ModelSpec,
    NodeState,
    NoPlan,
    Plan,
    PlanRequest,
    Profile,
    outcome_from_json,
)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: a_model(layer_bytes=()), "model.layer_bytes"),
        (lambda: a_model(layer_bytes=(1, 0)), r"model.layer_bytes\[1\]"),
        (lambda: a_model(layer_bytes=(1, -5)), r"model.layer_bytes\[1\]"),
        (lambda: a_model(embed_bytes=-1), "model.embed_bytes"),
        (lambda: a_model(head_bytes=math.nan), "model.head_bytes"),
        (lambda: a_model(kv_reserve_bytes=1.5), "model.kv_reserve_bytes"),
        (lambda: a_model(slo_ttft_ms=0), "model.slo_ttft_ms"),
        (lambda: a_model(slo_ttft_ms=math.inf), "model.slo_ttft_ms"),
        (lambda: a_model(slo_tpot_ms=0), "model.slo_tpot_ms"),
        (lambda: a_model(max_stages=0), "model.max_stages"),
        (lambda: a_model(capacity=True), "model.capacity"),
        (lambda: a_model(name=""), "model.name"),
        (lambda: Profile(tpot_ms=0), "profile.tpot_ms"),
        (lambda: Profile(prefill_ms=-1), "profile.prefill_ms"),
        (lambda: Profile(tail_ms=-1), "profile.tail_ms"),
        (lambda: DeviceState("a", 0, "cuda", 10, 11), "exceeds memory_bytes"),
        (lambda: DeviceState("a", 0, "cuda", 10, -1), "free_bytes"),
        (lambda: DeviceState("a", -1, "cuda", 10, 1), "index"),
        (lambda: DeviceState("a", 0, "", 10, 1), "kind"),
        (lambda: Fetch("k", "a", -1, NOW), "remaining_bytes"),
        (lambda: NodeState("a", -1, ()), "link_bps"),
        (lambda: NodeState("a", math.nan, ()), "link_bps"),  # type: ignore[arg-type]
        (lambda: NodeState("", 1, ()), "node.name"),
        (lambda: NodeState("a", 1, (DeviceState("b", 0, "cuda", 1, 1),)), "say node"),
        (lambda: NodeState("a", 1, (DeviceState("a", 0, "cuda", 1, 1),) * 2), "same index"),
        (lambda: NodeState("a", 1, (), free_ports=-1), "free_ports"),
        (lambda: ClusterState((a_node("a"), a_node("a")), NOW), "same name"),
        (lambda: ClusterState((), 1.5), "now_ms"),  # type: ignore[arg-type]
        (lambda: PlanRequest(a_model(), 0), "request.instances"),
        (lambda: PlanRequest(a_model(), 1, -1), "request.waited_ms"),
    ],
)
def test_a_bad_number_is_refused_by_name(build, field):
    with pytest.raises(ValueError, match=field):
        build()


def test_outcomes_survive_json_text():
    good = plan(PlanRequest(a_model()), a_cluster())
    bad = plan(PlanRequest(a_model(500)), a_cluster())
    assert isinstance(good, Plan)
    assert isinstance(bad, NoPlan)
    for outcome in (good, bad):
        assert outcome_from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


def test_the_weights_of_a_model_are_the_sum_of_its_parts():
    assert a_model(12, embed_bytes=5, head_bytes=7).weights_bytes == 12 * GB + 12


def stored_plan() -> dict[str, object]:
    outcome = plan(PlanRequest(a_model()), a_cluster())
    return dict(outcome.to_json())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"s": "2"}, "Plan.s: expected int, got '2'"),
        ({"s": True}, "Plan.s: expected int, got True"),
        ({"degraded": 0}, "Plan.degraded: expected bool"),
        ({"stages": {}}, "Plan.stages: expected a list"),
        ({"stages": [7]}, r"Plan.stages\[0\]: expected an object"),
        ({"stages": [{"rank": 0}]}, r"Plan.stages\[0\].node: missing"),
        ({"candidates": [{"s": 1, "w": 1, "verdict": "perhaps"}]}, r"candidates\[0\].verdict: 'perhaps' is not one of"),
        (
            {"reasons": [{"code": "held", "facts": {"x": [1]}}]},
            r"reasons\[0\].facts.x: expected an integer or a string",
        ),
        ({"reasons": [{"code": "held", "facts": 3}]}, r"reasons\[0\].facts: expected an object"),
    ],
)
def test_a_damaged_stored_plan_is_refused_by_field(damage, message):
    with pytest.raises(ValueError, match=message):
        outcome_from_json(stored_plan() | damage)


@pytest.mark.parametrize("data", [None, [], "plan", 3])
def test_what_is_no_object_is_no_outcome(data):
    with pytest.raises(ValueError, match="expected an object"):
        outcome_from_json(data)


def test_a_row_of_another_version_can_be_read():
    model = a_model()
    stored = model.to_json()
    del stored["context_bytes"]
    stored["something_new"] = 1
    assert ModelSpec.from_json(stored) == model
    assert ModelSpec.from_json(replace(model, slo_tpot_ms=5).to_json()).slo_tpot_ms == 5
