"""Every decision can be read by a person."""

from dataclasses import replace

import pytest
from support.clusters import NOW, PAPER_PROFILE, a_cluster, a_model, a_node

from orchestrator.explain import candidate_lines, explain, reason_text, refusal_text
from orchestrator.plan import plan
from orchestrator.types import ClusterState, NoPlan, NoPlanReason, PlanRequest, Reason, ReasonCode

FACTS = {
    "s": 2,
    "w": 1,
    "slo_ttft_ms": 7500,
    "ttft_ms": 5250,
    "waited_ms": 10,
    "best_ttft_ms": 8500,
    "instances": 3,
    "what": "tpot",
    "rank": 0,
    "node": "node-a",
    "bytes": 1_500_000_000,
    "device": 1,
    "fetch_ms": 3200,
}
DETAIL = {
    "cordoned": 1,
    "need_bytes": 18_000_000_000,
    "largest_bytes": 16_000_000_000,
    "free_bytes": 400_000_000,
    "nodes": 2,
    "fetches": 3,
}


@pytest.mark.parametrize("code", list(ReasonCode))
def test_every_reason_has_words(code):
    text = reason_text(Reason(code, FACTS))
    assert text.endswith(".")
    assert "{" not in text


@pytest.mark.parametrize("reason", list(NoPlanReason))
@pytest.mark.parametrize("retry_after_ms", [None, 2000])
def test_every_refusal_has_words_and_says_when_it_is_asked_again(reason, retry_after_ms):
    text = refusal_text(NoPlan("m", reason, DETAIL, (), retry_after_ms))
    assert "{" not in text
    assert text.endswith("Asked again in 2 s.") == (retry_after_ms is not None)


def test_a_plan_says_what_why_where_and_what_else_was_judged():
    profile = replace(PAPER_PROFILE, tpot_ms=42, prefill_ms=0)
    text = "\n".join(explain(plan(PlanRequest(a_model(profile=profile, slo_tpot_ms=84)), a_cluster())))
    assert "m: s=2 w=1" in text
    assert "first token in 5.25 s of 7.5 s allowed, 64 ms per token of 84 ms" in text
    assert "with up to 1, the first token comes in 8.5 s at best" in text
    assert "16.00 Gbit/s" in text
    assert "becomes standalone on n0, device 0, beside the stage: 18.00 GB" in text
    assert "first token too late" in text


def test_a_refusal_says_what_is_missing():
    lines = explain(plan(PlanRequest(a_model(90)), a_cluster()))
    assert lines[0] == "m: no plan"
    assert "needs 95.00 GB of device memory and the largest device has 80.00 GB" in lines[1]


def test_a_degraded_plan_is_marked():
    lines = explain(plan(PlanRequest(a_model(slo_ttft_ms=100)), a_cluster()))
    assert lines[0] == "m: s=1 w=1 (degraded)"


def test_small_sizes_are_in_megabytes():
    tiny = a_model(layer_bytes=(2_500_000,) * 4, kv_reserve_bytes=0)
    text = "\n".join(explain(plan(PlanRequest(tiny), ClusterState((a_node("a"),), NOW))))
    assert "10.0 MB" in text


def test_no_candidates_no_table():
    assert candidate_lines(()) == []


def test_words_count_and_name_things_as_people_do():
    facts = {"s": 1, "w": 1, "ttft_ms": 2_000, "slo_ttft_ms": 15_000}
    assert reason_text(Reason(ReasonCode.MEETS_SLO, facts)).startswith("1 stage, 1 with room")
    assert "first token in 2 s of 15 s allowed" in reason_text(Reason(ReasonCode.MEETS_SLO, facts))
    assert reason_text(Reason(ReasonCode.MEETS_SLO, facts | {"s": 2})).startswith("2 stages, 1 with room")
    unmeasured = reason_text(Reason(ReasonCode.NOT_PROFILED, {"what": "tpot and prefill"}))
    assert unmeasured.endswith("not counted: the time per token and the time for a prompt.")
    assert refusal_text(NoPlan("m", NoPlanReason.NO_PORTS, {"nodes": 1}, (), None)).startswith("Of 1 node, none has")
