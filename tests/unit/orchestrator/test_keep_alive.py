"""How long an unused worker is kept, from its model's own pauses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.keep_alive import (
    LONGEST,
    REMEMBERED,
    SHORTEST_MS,
    WORTH_OF_A_START,
    keep_alive_in_plenty_ms,
    keep_alive_ms,
    missed,
    note,
)

SET = 30_000
pauses = st.lists(st.integers(0, 10**7), max_size=32)


def test_without_a_pause_to_learn_from_it_is_as_set():
    assert keep_alive_ms((), SET) == SET


def test_a_model_that_always_comes_back_soon_is_kept_a_little_longer_than_its_pauses():
    assert keep_alive_ms([20_000] * 10, SET) == 24_000


def test_a_model_that_comes_back_after_the_set_time_is_kept_for_it_where_that_is_worth_it():
    assert keep_alive_ms([60_000] * 10, SET) == 72_000


def test_a_model_that_never_comes_back_soon_goes_at_once():
    assert keep_alive_ms([3_600_000] * 10, SET) == SHORTEST_MS


def test_one_short_pause_does_not_promise_another():
    assert keep_alive_ms([WORTH_OF_A_START * SET // 2], SET) == SHORTEST_MS


@pytest.mark.parametrize(
    ("found", "kept"),
    [((), SET), ([3_600_000], SET // 2), ([3_600_000] * 2, SET // 3), ([3_600_000] * 32, SET // 33)],
)
def test_where_memory_is_plenty_long_pauses_shorten_it_step_by_step(found, kept):
    assert keep_alive_in_plenty_ms(found, SET) == max(kept, keep_alive_ms(found, SET))


def test_in_plenty_nobody_is_kept_for_less():
    assert keep_alive_in_plenty_ms([60_000] * 10, SET) == keep_alive_ms([60_000] * 10, SET) == 72_000


def test_nothing_is_kept_where_people_want_nothing_kept():
    assert keep_alive_ms([10] * 10, 0) == keep_alive_in_plenty_ms([10] * 10, 0) == 0


@given(pauses, st.integers(1, 10**6))
def test_it_stays_within_its_bounds(found, set_ms):
    kept = keep_alive_ms(found, set_ms)
    assert kept == set_ms if not found else min(SHORTEST_MS, LONGEST * set_ms) <= kept <= LONGEST * set_ms


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=32))
def test_what_it_chooses_saves_more_than_keeping_for_any_other_pause(found):
    worth = WORTH_OF_A_START * SET

    def gain(kept: int) -> int:
        paid = sum(min(pause, kept) for pause in found) + kept
        return worth * sum(pause <= kept for pause in found) - paid

    chosen = keep_alive_ms(found, SET)
    exact = max([0, *(pause for pause in found)], key=lambda kept: (gain(kept), -kept))
    best = 0 if exact == 0 else exact
    assert chosen == min(LONGEST * SET, max(SHORTEST_MS, best * 120 // 100))


@pytest.mark.parametrize(("unused_ms", "chance"), [(0, 2 / 4), (15_000, 1 / 3), (25_000, 0.0), (200_000, 0.0)])
def test_how_likely_a_worker_will_be_missed(unused_ms, chance):
    assert missed([10_000, 20_000, 100_000], unused_ms, within_ms=30_000) == pytest.approx(chance)


def test_pauses_are_the_times_in_which_nothing_ran() -> None:
    assert note(0, (), [(1_000, 2_000)]) == (2_000, [])
    assert note(2_000, (), [(5_000, 9_000), (6_000, 7_000), (10_000, 11_000)]) == (11_000, [3_000, 1_000])
    assert note(11_000, [3_000], [(4_000, 5_000)]) == (11_000, [3_000]), "told late: it ran while others did"


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**4)), max_size=60))
def test_however_requests_are_told_pauses_are_positive_and_bounded(asked) -> None:
    spans = [(begun, begun + took) for begun, took in asked]
    at_once = note(0, (), spans)
    busy, pauses = 0, []
    for span in sorted(spans):
        busy, pauses = note(busy, pauses, [span])
    assert (busy, pauses) == at_once
    assert len(pauses) <= REMEMBERED
    assert all(pause > 0 for pause in pauses)
