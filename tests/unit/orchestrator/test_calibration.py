"""What starts teach: what is read from their marks, and what a few odd ones may do to the estimates."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.calibration import (
    ENOUGH,
    WINDOW,
    Observation,
    StageMarks,
    error_permille,
    fetch_bps,
    learn,
    link_bps,
    observe,
)
from orchestrator.types import Profile

T0 = 1_000_000
OVERLAPPED = {
    "queued": T0, "fork": T0 + 10, "runtime": T0 + 20, "load_start": T0 + 450, "up": T0 + 1_000,
    "prefetch_end": T0 + 5_000, "load_end": T0 + 5_030, "wanted": T0 + 1_050,
}  # fmt: skip
"""A start that was up long before its last byte."""
PROFILE = Profile(prefill_ms=400, tail_ms=300)


def of_one(observations):
    return [("m", observation) for observation in observations]


def one(marks, *, first_token_ms=5_800, stages=1, full=1):
    ((kind, seen),) = observe([StageMarks("cpu", marks)] * stages, full, first_token_ms, PROFILE)
    assert kind == "cpu"
    return seen


def test_a_start_that_waited_for_bytes_tells_its_floor_all_the_same() -> None:
    seen = one(OVERLAPPED)
    assert seen == Observation(stages=1, floor_ms=1_000, plain_ms=None, tail_ms=5_800 - 5_000 - 400)


def test_a_start_whose_bytes_were_there_is_as_slow_as_its_runtime() -> None:
    held = OVERLAPPED | {"prefetch_end": T0 - 50, "load_end": T0 + 900}
    del held["wanted"]
    assert one(held, first_token_ms=1_700).tail_ms == 1_700 - 1_000 - 400


def test_an_engine_that_captures_graphs_after_its_last_byte_is_measured_up_to_where_it_waited() -> None:
    seen = one(OVERLAPPED | {"wanted": T0 + 800, "up": T0 + 6_000}, first_token_ms=6_500)
    assert (seen.floor_ms, seen.tail_ms) == (800, 6_500 - 5_000 - 400)


def test_a_plain_start_is_told_apart_from_the_floor() -> None:
    late = {kind: at if kind in ("queued", "fork", "prefetch_end") else at + 9_000 for kind, at in OVERLAPPED.items()}
    seen = one(late, first_token_ms=10_700)
    assert (seen.floor_ms, seen.plain_ms) == (1_000 - 10, 9_010)


def test_a_pipeline_is_as_slow_as_its_slowest_stage_and_its_prefill_is_its_own() -> None:
    slow = OVERLAPPED | {"wanted": T0 + 1_600, "up": T0 + 1_600, "prefetch_end": T0 + 6_000}
    found = observe([StageMarks("cpu", OVERLAPPED), StageMarks("cpu", slow)], 1, 7_000, PROFILE)
    assert found == [("cpu", Observation(2, floor_ms=1_600, tail_ms=7_000 - 6_000 - 600))]


def test_kinds_of_device_are_told_apart() -> None:
    found = observe(
        [StageMarks("A10", OVERLAPPED), StageMarks("V100", OVERLAPPED | {"up": T0 + 900})], 1, None, PROFILE
    )
    assert found == [("A10", Observation(2, floor_ms=1_000)), ("V100", Observation(2, floor_ms=900))]


@pytest.mark.parametrize(
    ("marks", "first_token_ms"),
    [({}, 5_000), ({"queued": T0}, 5_000), (OVERLAPPED, None), (OVERLAPPED, 4_000)],
    ids=["no marks", "never came up", "nobody waited", "a clock that is wrong"],
)
def test_what_is_not_known_is_not_guessed(marks, first_token_ms) -> None:
    assert one(marks, first_token_ms=first_token_ms).tail_ms is None


def test_nothing_is_believed_before_enough_starts_agree() -> None:
    seen = Observation(1, floor_ms=1_000, tail_ms=400)
    assert learn(of_one([seen] * (ENOUGH - 1))) == {}
    assert learn(of_one([seen] * ENOUGH)) == {"runtime_floor_ms": 1_000, "per_stage_floor_ms": 0, "tail_ms": 400}


def test_what_each_stage_adds_is_learnt_from_pipelines_of_unlike_length() -> None:
    seen = [Observation(stages, floor_ms=1_000 + 300 * (stages - 1)) for stages in (1, 4, 2, 1)]
    assert learn(of_one(seen)) == {"runtime_floor_ms": 1_000, "per_stage_floor_ms": 300}
    alike = [Observation(3, floor_ms=1_600)] * ENOUGH
    assert learn(of_one(alike), per_stage_ms=250) == {"runtime_floor_ms": 1_100, "per_stage_floor_ms": 250}


def test_of_several_models_only_starts_of_the_same_one_tell_what_a_stage_adds() -> None:
    quick = [("quick", Observation(stages, floor_ms=1_000 + 200 * (stages - 1))) for stages in (1, 3, 2)]
    slow = [("slow", Observation(3, floor_ms=9_000))] * 2
    assert learn(quick + slow)["per_stage_floor_ms"] == 200


def test_the_past_is_forgotten() -> None:
    old, new = Observation(1, floor_ms=9_000), Observation(1, floor_ms=1_000)
    assert learn(of_one([old] * 100 + [new] * WINDOW))["runtime_floor_ms"] == 1_000


@given(
    st.lists(st.integers(900, 1_100), min_size=3, max_size=WINDOW // 2),
    st.lists(st.integers(0, 10_000_000), max_size=WINDOW // 2),
    st.randoms(use_true_random=False),
)
def test_odd_starts_that_are_fewer_than_the_others_cannot_move_an_estimate_out_of_them(usual, odd, random) -> None:
    odd = odd[: len(usual) - 1]
    starts = [Observation(1, floor_ms=ms, tail_ms=ms) for ms in usual + odd]
    random.shuffle(starts)
    learnt = learn(of_one(starts))
    for field in ("runtime_floor_ms", "tail_ms"):
        assert min(usual) <= learnt[field] <= max(usual)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 10_000_000)), min_size=ENOUGH, max_size=30))
def test_whatever_was_observed_makes_a_profile(seen) -> None:
    learnt = learn(of_one([Observation(stages, floor_ms=ms, tail_ms=ms, plain_ms=ms) for stages, ms in seen]))
    assert Profile.from_json(learnt).tail_ms == round(median([ms for _, ms in seen][-WINDOW:]))


def test_an_error_is_told_as_a_share_of_what_really_came() -> None:
    assert error_permille([(1_100, 1_000), (900, 1_000), (1_000, 2_000)]) == 100
    assert error_permille([(5, 0)]) is None


def test_a_fetch_tells_its_rate_if_it_took_long_enough() -> None:
    marks = {"prefetch_start": T0, "prefetch_end": T0 + 2_000}
    assert fetch_bps(marks, 100_000_000) == 50_000_000
    assert fetch_bps(marks | {"prefetch_end": T0 + 30}, 100_000_000) is None
    assert fetch_bps(marks, 0) is None
    assert fetch_bps({"prefetch_start": T0}, 100_000_000) is None


def test_a_link_is_as_fast_as_the_best_of_its_fetches_and_never_faster_than_it_is_said_to_be() -> None:
    assert link_bps(100, [10, 60]) == 100, "too few to tell"
    assert link_bps(100, [10, 60, 30]) == 60
    assert link_bps(100, [10, 900, 30]) == 100
    assert link_bps(100, [90] + [50] * WINDOW) == 50
