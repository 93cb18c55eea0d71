"""The paper's formulas, in numbers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.predict import after_fetch_ms, floor_ms, slowdown, tpot_ms, ttft_ms
from orchestrator.types import Profile

sizes = st.integers(1, 4).flatmap(lambda s: st.tuples(st.just(s), st.integers(1, s)))


@pytest.mark.parametrize(("s", "w", "k"), [(1, 1, "1"), (2, 1, "3/2"), (2, 2, "1"), (4, 1, "13/4"), (4, 4, "1")])
def test_the_slowdown_is_k(s, w, k):
    assert Fraction(*slowdown(s, w)) == Fraction(k)


@given(sizes, st.integers(1, 500), st.integers(0, 5))
def test_a_pipeline_is_never_faster_per_token_than_a_worker_and_full_workers_help(size, tpot, hop):
    s, w = size
    profile = Profile(tpot_ms=tpot, hop_ms=hop)
    alone, pipelined = tpot_ms(profile, 1, 1), tpot_ms(profile, s, w)
    assert alone == tpot
    assert pipelined is not None
    assert pipelined >= alone
    if w < s:
        more = tpot_ms(profile, s, w + 1)
        assert more is not None
        assert more <= pipelined


def test_what_was_not_measured_is_not_invented():
    assert tpot_ms(Profile(), 4, 1) is None
    assert after_fetch_ms(Profile(tail_ms=700), 4, 1) == 700


def test_time_to_first_token_adds_up():
    profile = Profile(prefill_ms=100, tail_ms=2000)
    assert ttft_ms(profile, 4, 1, waited_ms=50, slowest_ms=1000) == 50 + 1000 + 2000 + 325


def test_the_floor_grows_with_stages_and_without_a_warm_runtime():
    profile = Profile(runtime_floor_ms=5000, per_stage_floor_ms=800, plain_start_ms=15_000)
    assert floor_ms(profile, 1, warm=True) == 5000
    assert floor_ms(profile, 3, warm=True) == 6600
    assert floor_ms(profile, 3, warm=False) == 21_600
