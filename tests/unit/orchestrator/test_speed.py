"""How fast a model is served, from answers that it has given, alone and beside others."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.predict import tpot_ms
from orchestrator.speed import ENOUGH, TOKENS, Answer, beside, measured
from orchestrator.types import Profile


def alone(at_ms: int, *, prefill=100, tpot=20, tokens=51, worker="w", waited=False) -> Answer:
    first = at_ms + prefill
    return Answer(worker, at_ms, first, first + tpot * (tokens - 1), tokens, waited)


def served(count: int, each_ms: float, *, base_ms: float = 20, seed: int = 1) -> list[Answer]:
    """Batches of one to four answers that begin and end together; each further one slows all by `each_ms` a token."""
    rng = random.Random(seed)
    found: list[Answer] = []
    at = 0
    for batch in (rng.randint(1, 4) for _ in range(count)):
        tpot = base_ms + each_ms * (batch - 1)
        found += [Answer("w", at, at + 100, at + 100 + round(tpot * 50), 51) for _ in range(batch)]
        at += 100_000
    return found


def test_few_answers_tell_nothing():
    assert measured([alone(i * 10_000) for i in range(ENOUGH - 1)]) == {}


def test_answers_alone_tell_the_prompt_and_the_pace():
    found = measured([alone(i * 10_000) for i in range(ENOUGH)])
    assert found == {"prefill_ms": 100, "tpot_ms": 20, "tpot_batch_us": 0}


def test_what_each_further_request_adds_is_told_apart_from_the_pace_of_one():
    found = measured(served(12, 5))
    assert (found["tpot_ms"], found["tpot_batch_us"]) == (20, pytest.approx(5_000, rel=0.05))


def test_a_slow_reader_moves_nothing():
    answers = served(12, 5)
    slow = [alone(10**8 + i * 10**6, tpot=2_000) for i in range(len(answers) // 6)]
    found = measured([*answers, *slow])
    assert found["tpot_ms"] == pytest.approx(20, abs=1)
    assert found["tpot_batch_us"] == pytest.approx(5_000, rel=0.1)


def test_who_waited_for_a_worker_tells_nothing_of_the_prompt():
    found = measured([alone(i * 10_000, prefill=30_000, waited=True) for i in range(ENOUGH)])
    assert "prefill_ms" not in found
    assert found["tpot_ms"] == 20


def test_short_answers_tell_nothing_of_the_pace():
    assert "tpot_ms" not in measured([alone(i * 10_000, tokens=TOKENS - 1) for i in range(ENOUGH)])


def test_only_what_the_same_worker_gave_at_the_same_time_was_beside():
    one = Answer("w", 0, 100, 1_100, 51)
    half = Answer("w", 0, 600, 2_000, 51)
    elsewhere = Answer("x", 0, 100, 1_100, 51)
    assert beside(one, [one, half, elsewhere]) == 1.5
    assert beside(Answer("w", 0, 5, 5, 1), [one, half]) == 1


@given(
    st.lists(
        st.builds(
            lambda worker, at, first, took, *rest: Answer(worker, at, at + first, at + first + took, *rest),
            st.sampled_from("vw"), st.integers(0, 10**5), st.integers(0, 10**5), st.integers(0, 10**5),
            st.integers(0, 500), st.booleans(),
        ),
        max_size=20,
    )
)  # fmt: skip
def test_whatever_was_served_a_profile_comes_out(answers):
    Profile(**measured(answers))


def test_a_prediction_counts_the_batch():
    profile = Profile(tpot_ms=20, tpot_batch_us=2_500)
    assert [tpot_ms(profile, 1, 1, batch) for batch in (1, 2, 3, 5)] == [20, 23, 25, 30]
