"""A link's ledger by deadline: nobody who was on time becomes late, and more may come than when links are shared."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clusters import NOW

from orchestrator import equal_share
from orchestrator.deadlines import SLACK, Turn, finish_ms, last, late, turn
from orchestrator.types import Fetch

LINK = 1_000_000


def fetch(key: str, size: int, in_ms: int) -> Fetch:
    return Fetch(key, "n", size, NOW + in_ms)


sizes = st.integers(1, 20_000_000)
wanted_in = st.integers(-1_000, 60_000)
ledgers = st.lists(st.tuples(st.integers(0, 20_000_000), wanted_in), max_size=5).map(
    lambda rows: tuple(fetch(str(i), size, in_ms) for i, (size, in_ms) in enumerate(rows))
)


def played(link_bps: int, running: tuple[Fetch, ...]) -> dict[str, float]:
    """The link given to the earliest deadline, step by step: an independent check of the closed form."""
    left = [[f.deadline_ms, i, f.key, float(f.remaining_bytes)] for i, f in enumerate(running)]
    clock, ends = 0.0, {f.key: 0.0 for f in running}
    while waiting := [one for one in left if one[3] > 0]:
        first = min(waiting, key=lambda one: (one[0], one[1]))
        step = min(first[3], 777_777.0)
        first[3] -= step
        clock += step / link_bps * 1000
        ends[first[2]] = clock
    return ends


def joined(running: tuple[Fetch, ...], size: int, turned: Turn) -> tuple[Fetch, ...]:
    return (*running, Fetch("new", "n", size, turned.deadline_ms))


@given(ledgers)
def test_finish_times_are_those_of_the_earliest_deadline_first(running):
    assert finish_ms(LINK, running) == pytest.approx(played(LINK, running), abs=1.01)


@given(ledgers, sizes, wanted_in)
def test_a_newcomer_makes_none_late_and_ends_when_it_was_told_to(running, size, in_ms):
    got = turn(LINK, running, size, NOW, NOW + in_ms)
    after = joined(running, size, got)
    assert late(LINK, after, NOW) == late(LINK, running, NOW)
    assert finish_ms(LINK, after)["new"] == got.fetch_ms


@given(ledgers, sizes, wanted_in)
def test_a_newcomer_misses_what_it_asked_for_only_if_another_would_have_to_be_late(running, size, in_ms):
    wanted_ms = NOW + in_ms
    got = turn(LINK, running, size, NOW, wanted_ms)
    if got.deadline_ms != wanted_ms:
        asked = joined(running, size, Turn(0, wanted_ms))
        assert late(LINK, asked, NOW) != late(LINK, running, NOW)


@given(ledgers, sizes, wanted_in)
def test_whoever_is_let_in_when_links_are_shared_equally_is_let_in_by_deadline_too(running, size, in_ms):
    running = tuple(f for f in running if f.key not in equal_share.late(LINK, running, NOW))
    shared = equal_share.assess(LINK, running, size, NOW)
    if shared.admitted and shared.fetch_ms <= in_ms:
        assert turn(LINK, running, size, NOW, NOW + in_ms).deadline_ms == NOW + in_ms


def test_an_urgent_fetch_is_let_in_that_equal_sharing_would_have_refused():
    running = (fetch("relaxed", 4_000_000, 5_500),)
    assert turn(LINK, running, 1_000_000, NOW, NOW + 1_000) == Turn(1_000, NOW + 1_000)
    assert equal_share.assess(LINK, running, 1_000_000, NOW).fetch_ms == 2_000


@given(st.lists(st.tuples(sizes, st.integers(0, 20_000), st.integers(0, 3_000)), max_size=8))
def test_over_time_every_fetch_ends_by_its_deadline(arrivals):
    """Fetches arrive one after the other while the link is at work; all keep the deadlines that they were given."""
    running: tuple[Fetch, ...] = ()
    now = NOW
    for number, (size, in_ms, pause_ms) in enumerate(arrivals):
        now += pause_ms
        budget = LINK * pause_ms // 1000
        moved = []
        for one in sorted(running, key=lambda f: f.deadline_ms):
            step = min(one.remaining_bytes, budget)
            budget -= step
            moved.append(replace(one, remaining_bytes=one.remaining_bytes - step))
        running = tuple(one for one in moved if one.remaining_bytes)
        got = turn(LINK, running, size, now, now + in_ms)
        running += (Fetch(str(number), "n", size, got.deadline_ms),)
        assert late(LINK, running, now - 1) == frozenset(), "a millisecond is lost to rounding at most"


def test_an_empty_link_gives_everything():
    assert turn(LINK, (), 2_000_000, NOW, NOW + 2_000) == Turn(2_000, NOW + 2_000)


def test_what_cannot_be_in_time_goes_behind_all_and_keeps_the_deadline_it_gets():
    running = (fetch("tight", 1_000_000, 1_000), fetch("far", 1_000_000, 90_000))
    assert turn(LINK, running, 1_000_000, NOW, NOW + 1_500) == Turn(3_000, NOW + 90_000)
    assert turn(LINK, running[:1], 1_000_000, NOW, NOW + 1_500) == Turn(2_000, NOW + SLACK * 2_000)


def test_a_newcomer_waits_for_the_one_that_it_would_make_late():
    running = (fetch("tight", 2_000_000, 2_500),)
    assert turn(LINK, running, 1_000_000, NOW, NOW + 1_000).fetch_ms == 3_000


def test_one_that_is_late_anyway_is_ahead_of_all_and_refuses_nobody():
    running = (fetch("late", 5_000_000, 100),)
    assert turn(LINK, running, 1_000_000, NOW, NOW + 6_000) == Turn(6_000, NOW + 6_000)


def test_nothing_to_fetch_ends_at_once_on_any_link_and_a_link_that_is_down_fetches_nothing():
    running = (fetch("tight", 1_000_000, 1_000),)
    assert turn(LINK, running, 0, NOW, NOW + 5).fetch_ms == 0
    assert turn(0, (), 0, NOW, NOW + 5).fetch_ms == 0
    assert turn(0, (), 1, NOW, NOW + 5) is None
    assert last(0, (), 1, NOW, 4) is None
    with pytest.raises(ValueError, match="never finishes"):
        finish_ms(0, running)


def test_in_the_background_a_fetch_goes_behind_all_with_time_to_spare():
    running = (fetch("tight", 1_000_000, 1_000),)
    assert last(LINK, running, 4_000_000, NOW, 4) == Turn(5_000, NOW + 20_000)
    assert late(LINK, joined(running, 4_000_000, last(LINK, running, 4_000_000, NOW, 4)), NOW) == frozenset()
