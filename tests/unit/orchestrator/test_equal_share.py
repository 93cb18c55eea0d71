"""The link ledger: nobody who was on time becomes late because of a newcomer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clusters import NOW

from orchestrator.equal_share import Admission, assess, background_deadline_ms, finish_ms, late
from orchestrator.types import Fetch

LINK = 1_000_000


def fetch(key: str, size: int, in_ms: int) -> Fetch:
    return Fetch(key, "n", size, NOW + in_ms)


sizes = st.integers(0, 20_000_000)
ledgers = st.lists(st.tuples(sizes, st.integers(-1000, 60_000)), max_size=5).map(
    lambda rows: tuple(fetch(str(i), size, in_ms) for i, (size, in_ms) in enumerate(rows))
)


def simulated_finish(link_bps: int, running: tuple[Fetch, ...]) -> dict[str, float]:
    """Equal sharing played through event by event, in floating point: an independent check of the closed form."""
    left = {f.key: float(f.remaining_bytes) for f in running}
    done = {key: 0.0 for key, size in left.items() if size == 0}
    clock = 0.0
    while active := [key for key in left if key not in done]:
        smallest = min(left[key] for key in active)
        clock += smallest * len(active) / link_bps * 1000
        for key in active:
            left[key] -= smallest
            if left[key] <= 1e-6:
                done[key] = clock
    return done


@given(ledgers)
def test_finish_times_are_those_of_equal_sharing(running):
    expected = simulated_finish(LINK, running)
    assert finish_ms(LINK, running) == pytest.approx(expected, abs=1.01)


@given(ledgers, sizes)
def test_an_admitted_fetch_makes_none_late(running, size):
    admission = assess(LINK, running, size, NOW)
    before = late(LINK, running, NOW)
    after = late(LINK, (*running, fetch("new", size, 10**9)), NOW)
    if admission.admitted:
        assert after == before
    else:
        assert admission.harmed in after
        assert admission.harmed not in before


@given(ledgers, sizes)
def test_the_predicted_duration_is_when_the_newcomer_ends(running, size):
    admission = assess(LINK, running, size, NOW)
    assert admission.fetch_ms == finish_ms(LINK, (*running, fetch("new", size, 10**9)))["new"]


@given(ledgers, st.integers(1, 20_000_000))
def test_a_faster_link_never_refuses_what_a_slower_one_admits_without_late_fetches(running, size):
    on_time = tuple(f for f in running if f.key not in late(LINK, running, NOW))
    admission = assess(LINK, on_time, size, NOW)
    faster = assess(2 * LINK, on_time, size, NOW)
    if admission.admitted:
        assert faster.admitted
    assert faster.fetch_ms <= admission.fetch_ms


def test_an_empty_link_gives_everything():
    assert assess(LINK, (), 2_000_000, NOW) == Admission(True, fetch_ms=2000, rate_bps=LINK)


def test_two_equal_fetches_take_twice_as_long():
    admission = assess(LINK, (fetch("a", 1_000_000, 5000),), 1_000_000, NOW)
    assert admission == Admission(True, fetch_ms=2000, rate_bps=LINK // 2)


def test_a_refusal_says_who_would_be_late_and_when_to_come_back():
    running = (fetch("relaxed", 1_000_000, 60_000), fetch("tight", 1_000_000, 2000))
    assert assess(LINK, running, 1, NOW) == Admission(False, 1, LINK // 3, harmed="tight", retry_after_ms=2000)


def test_a_fetch_that_is_late_anyway_does_not_block_its_node():
    admission = assess(LINK, (fetch("late", 5_000_000, 100),), 1_000_000, NOW)
    assert admission.admitted
    assert admission.fetch_ms == 2000


def test_a_fetch_that_has_ended_blocks_nobody():
    assert assess(LINK, (fetch("done", 0, -5),), 1_000_000, NOW) == Admission(True, 1000, LINK)


def test_nothing_to_fetch_is_admitted_on_any_link():
    running = (fetch("tight", 1_000_000, 1000),)
    assert assess(LINK, running, 0, NOW) == Admission(True, 0, 0)
    assert assess(0, running, 0, NOW) == Admission(True, 0, 0)


def test_a_link_that_is_down_admits_nothing():
    assert assess(0, (), 1, NOW) == Admission(False, 0, 0)
    assert background_deadline_ms(0, (), 1, NOW) is None
    with pytest.raises(ValueError, match="never finishes"):
        finish_ms(0, (fetch("a", 1, 1),))


def test_a_background_fetch_gets_a_deadline_it_can_keep_and_leaves_room_for_others():
    deadline_ms = background_deadline_ms(LINK, (), 4_000_000, NOW)
    assert deadline_ms == NOW + 16_000
    assert assess(LINK, (Fetch("consolidate", "n", 4_000_000, deadline_ms),), 1_000_000, NOW).admitted


def test_a_background_fetch_waits_for_a_tight_one():
    assert background_deadline_ms(LINK, (fetch("tight", 1_000_000, 1000),), 4_000_000, NOW) is None
