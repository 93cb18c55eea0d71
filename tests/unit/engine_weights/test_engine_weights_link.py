"""A node's link: the earliest deadline first, never more than its rate, and nothing left unused while someone waits."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.weights.link import NEVER, DueBucket, Link
from engine.weights.pacing import BURST_S

PIECE = 1_000


def play(bucket, asks, until_s, step_s=0.01):
    """Fetches of (due, pieces) that each wait with one piece at a time: when each had its last, and the bytes moved."""
    left = dict(enumerate(pieces for _, pieces in asks))
    tickets = {bucket.ask(PIECE, due): i for i, (due, _) in enumerate(asks)}
    ended = dict.fromkeys(left)
    moved, now = 0, 0.0
    while now < until_s:
        while served := bucket.serve(now):
            for ticket in served:
                i = tickets.pop(ticket)
                left[i] -= 1
                moved += PIECE
                if left[i]:
                    tickets[bucket.ask(PIECE, asks[i][0])] = i
                else:
                    ended[i] = now
        now += step_s
    return ended, moved


def test_the_earliest_deadline_has_the_link_until_it_is_done():
    ended, _ = play(DueBucket(10_000, 0.0), [(20.0, 10), (10.0, 10), (NEVER, 10)], until_s=5)
    assert ended[1] == pytest.approx(1.0, rel=0.1)
    assert ended[0] == pytest.approx(2.0, rel=0.1)
    assert ended[2] == pytest.approx(3.0, rel=0.1)


def test_of_equal_deadlines_both_have_their_share():
    ended, _ = play(DueBucket(10_000, 0.0), [(10.0, 10), (10.0, 10)], until_s=5)
    assert ended[0] == pytest.approx(ended[1], abs=0.11)


@given(
    st.integers(1_000, 1_000_000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), min_size=1, max_size=5),
    st.floats(0.5, 3),
)
def test_the_rate_is_held_and_used(rate, asks, until_s):
    _, moved = play(DueBucket(rate, 0.0), asks, until_s)
    wanted = PIECE * sum(pieces for _, pieces in asks)
    assert moved <= rate * (until_s + BURST_S) + PIECE
    # A step of the clock, and the piece that is being saved up for.
    assert moved >= min(wanted, rate * (until_s - 0.05)) - PIECE


def test_a_piece_larger_than_the_burst_is_saved_up_for():
    bucket = DueBucket(1_000, 0.0)
    ticket = bucket.ask(64_000, 1.0)
    assert bucket.serve(1.0) == []
    assert bucket.wait_s() == pytest.approx(63.0)
    assert bucket.serve(64.0) == [ticket]


def test_idle_time_buys_a_bounded_burst_only():
    bucket = DueBucket(1_000, 0.0)
    assert bucket.serve(3_600.0) == []
    bucket.ask(200, 1.0)
    assert bucket.serve(3_600.0) == []
    assert bucket.wait_s() == pytest.approx(0.2 - BURST_S)


def test_without_a_limit_nobody_waits():
    bucket = DueBucket(None, 0.0)
    tickets = [bucket.ask(10**12, 5.0), bucket.ask(1, 4.0)]
    assert sorted(bucket.serve(0.0)) == tickets
    assert bucket.wait_s() is None


def test_one_that_has_left_is_not_served_and_blocks_nobody():
    bucket = DueBucket(1_000, 0.0)
    gone, there = bucket.ask(1_000_000, 1.0), bucket.ask(100, 2.0)
    bucket.withdraw(gone)
    assert bucket.serve(0.2) == [there]


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_is_positive(rate):
    with pytest.raises(ValueError, match="positive"):
        DueBucket(rate, 0.0)


def test_an_urgent_payment_overtakes_those_that_wait():
    async def run():
        link, order = Link(1_000_000), []

        async def pay(name, size, due):
            await link.pay(size, due)
            order.append(name)

        first = asyncio.create_task(pay("first", 50_000, 5.0))
        patient = asyncio.create_task(pay("patient", 50_000, NEVER))
        await asyncio.sleep(0)
        urgent = asyncio.create_task(pay("urgent", 50_000, 1.0))
        await asyncio.gather(first, patient, urgent)
        return order

    assert asyncio.run(run()) == ["urgent", "first", "patient"]


def test_a_payment_that_is_cancelled_leaves_the_link_to_the_next():
    async def run():
        link = Link(1_000_000)
        stuck = asyncio.create_task(link.pay(10**12, 1.0))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(link.pay(10_000, 2.0))
        await asyncio.sleep(0)
        stuck.cancel()
        await asyncio.wait_for(waiting, 5)
        assert stuck.cancelled()

    asyncio.run(run())
