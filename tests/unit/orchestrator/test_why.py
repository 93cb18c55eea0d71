"""Why groups end: data that survives a database, and words for all of it."""

import json

import pytest
from support.whys import untold

from orchestrator.explain import why_text
from orchestrator.why import SlowStage, Why, WhyCode

STAGE = {"rank": 1, "node": "n1"}
FETCHING = SlowStage(1, "n1", "fetching", 1_234_567, 269_000_000)
LOADING = SlowStage(2, "n2", "loading")
LATE = Why(WhyCode.NOT_READY_IN_TIME, {"allowed_ms": 300_000}, (FETCHING, LOADING))
TOLD = [
    (Why(WhyCode.STAGE_FAILED, {**STAGE, "error": "out of {memory}"}), "stage 1 on n1: out of {memory}"),
    (Why(WhyCode.STAGE_FAILED, STAGE), "stage 1 on n1: failed without giving a reason"),
    (
        Why(WhyCode.STAGE_GONE, {**STAGE, "error": "ended when its node was stopped"}),
        "stage 1 on n1: ended when its node was stopped",
    ),
    (Why(WhyCode.STAGE_GONE, STAGE), "stage 1 on n1: its processes ended"),
    (
        Why(WhyCode.NODE_LOST, STAGE),
        "stage 1 on n1: the node has stopped reporting; check that its noded and node worker run",
    ),
    (
        Why(WhyCode.NODE_TAKES_NOTHING, STAGE),
        "stage 1 on n1: the node worker of n1 reports but takes no work; restart it",
    ),
    (Why(WhyCode.PROBE_FAILED, {"error": "HTTP 500"}), "no token came out of the group: HTTP 500"),
    (Why(WhyCode.PROBE_FAILED), "no token came out of the group: the probe gave no reason"),
    (
        LATE,
        "not ready in time: stage 1 on n1 is fetching, with 1.2 of 269.0 MB fetched, stage 2 on n2 is loading;"
        " it had 300 s",
    ),
    (
        Why(WhyCode.NOT_READY_IN_TIME, {"allowed_ms": 300_000}),
        "not ready in time: no token came; it had 300 s",
    ),
    (Why(WhyCode.MODEL_DELETED), "no longer wanted: its model was deleted"),
    (Why(WhyCode.MODEL_DISABLED), "no longer wanted: its model is disabled"),
    (Why(WhyCode.MODEL_STOPPED), "no longer wanted: its model was told to stop"),
    (Why(WhyCode.NODE_EMPTIED, {"node": "n1"}), "no longer wanted: n1 is being emptied"),
    (
        Why(WhyCode.IDLE, {"idle_ms": 301_500, "keep_alive_ms": 300_000}),
        "idle past its keep-alive of 300 s: unused for 301.5 s",
    ),
    (
        Why(
            WhyCode.IDLE_BUDGET,
            {"idle_ms": 400_000, "set_ms": 300_000, "held_bytes": 18 * 10**9, "budget_bytes": 40 * 10**9},
        ),
        "idle past its set keep-alive of 300 s: unused for 400 s; of the 40.00 GB that idle workers may hold"
        " beyond theirs, others are likely to save more with the 18.00 GB that it held",
    ),
    (Why(WhyCode.DRAINS_FIRST), "drains first: its standalone worker needs its memory"),
    (Why(WhyCode.REPLACED), "replaced by its standalone worker"),
    (Why(WhyCode.MAKES_ROOM, {"model": "qwen3-8b"}), "makes room for qwen3-8b"),
]


def test_every_code_is_told_here():
    assert {why.code for why, _ in TOLD} == set(WhyCode)


@pytest.mark.parametrize(("why", "words"), TOLD)
def test_it_has_words(why, words):
    assert why_text(why) == words


@pytest.mark.parametrize("why", [why for why, _ in TOLD])
def test_words_miss_no_fact(why):
    assert untold(why) == []


@pytest.mark.parametrize("why", [why for why, _ in TOLD])
def test_it_survives_json_text(why):
    assert Why.from_json(json.loads(json.dumps(why.to_json()))) == why


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"code": "bored"}, "Why.code: 'bored' is not one of"),
        ({"facts": {"rank": None}}, "Why.facts.rank: expected an integer or a string, got None"),
        ({"stages": [{"rank": 0, "node": "n0"}]}, r"Why.stages\[0\].state: missing"),
        ({"stages": [{"rank": 0, "node": "n0", "state": 3}]}, r"Why.stages\[0\].state: expected str, got 3"),
    ],
)
def test_a_damaged_one_is_refused_by_field(damage, message):
    with pytest.raises(ValueError, match=message):
        Why.from_json(LATE.to_json() | damage)


def test_one_of_another_version_can_be_read():
    assert Why.from_json({"code": "replaced", "something_new": 1}) == Why(WhyCode.REPLACED)
