import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.weights.pacing import BURST_S, Pacer, TokenBucket, piece_bytes, reads_at_once


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def spend(bucket, clock, size, pieces):
    """Take pieces one after another, moving the clock by each wait; returns the seconds that it took."""
    start = clock.now
    for _ in range(pieces):
        clock.now += bucket.wait_s(bucket.take(size, clock.now), clock.now)
    return clock.now - start


@given(rate=st.integers(10_000, 10**10), size=st.integers(1, 10**7), pieces=st.integers(1, 50))
def test_the_rate_is_held(rate, size, pieces):
    clock = Clock()
    assert spend(TokenBucket(rate, 0.0), clock, size, pieces) == pytest.approx(size * pieces / rate, rel=1e-6, abs=1e-6)


def test_idle_time_buys_a_bounded_burst_only():
    clock = Clock()
    bucket = TokenBucket(1000, 0.0)
    clock.now = 3600.0
    assert spend(bucket, clock, 100, 20) == pytest.approx(2000 / 1000 - BURST_S)


def test_a_change_of_rate_applies_to_those_who_wait():
    bucket = TokenBucket(100, 0.0)
    ticket = bucket.take(1000, 0.0)
    assert bucket.wait_s(ticket, 0.0) == pytest.approx(10.0)
    bucket.set_rate(1000, 5.0)
    assert bucket.wait_s(ticket, 5.0) == pytest.approx(0.5)
    bucket.set_rate(10, 5.25)
    assert bucket.wait_s(ticket, 5.25) == pytest.approx(25.0)
    bucket.set_rate(None, 6.0)
    assert bucket.wait_s(ticket, 6.0) == 0.0


def test_an_unlimited_time_leaves_neither_debt_nor_credit():
    bucket = TokenBucket(None, 0.0)
    bucket.take(10**12, 1.0)
    bucket.set_rate(100, 2.0)
    assert bucket.wait_s(bucket.take(50, 2.0), 2.0) == pytest.approx(0.5)


def test_first_come_first_served():
    bucket = TokenBucket(100, 0.0)
    first, second = bucket.take(100, 0.0), bucket.take(1, 0.0)
    assert bucket.wait_s(first, 0.0) == pytest.approx(1.0)
    assert bucket.wait_s(second, 0.0) == pytest.approx(1.01)


@given(st.lists(st.tuples(st.floats(0.001, 5), st.integers(100, 10**6)), min_size=1, max_size=20))
def test_never_more_is_served_than_the_rates_allow(periods):
    """Whatever the rate does and whenever its user comes: at most the integral of the rate and one burst."""
    now = allowed = 0.0
    served, waiting = 0, None
    bucket = TokenBucket(periods[0][1], now)
    for seconds, rate in periods:
        bucket.set_rate(rate, now)
        end = now + seconds
        for _ in range(50):
            waiting = waiting or bucket.take(500, now)
            wait = bucket.wait_s(waiting, now)
            if now + wait > end:
                break
            now += wait
            allowed += wait * rate
            served, waiting = served + 500, None
            assert served <= allowed + max(rate for _, rate in periods) * BURST_S + 1e-3
        allowed += (end - now) * rate
        now = end


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_is_positive(rate):
    with pytest.raises(ValueError, match="positive"):
        TokenBucket(rate, 0.0)


async def test_waiters_wake_when_the_rate_rises():
    pacer = Pacer(1)
    waiting = asyncio.create_task(pacer.pay(10**9))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    pacer.set_rate(None)
    async with asyncio.timeout(5):
        await waiting


def test_a_piece_is_a_fraction_of_a_second_of_the_slowest_rate():
    assert piece_bytes(None, None) == 4 * 1024 * 1024
    assert piece_bytes(100_000_000, 25_000_000) == 1_250_000
    assert piece_bytes(None, 1000) == 64 * 1024
    assert piece_bytes(10**12) == 4 * 1024 * 1024


def test_in_the_background_the_link_is_busy_for_ten_milliseconds_at_a_time():
    assert piece_bytes(1_000_000, 50_000_000, background=True) == 500_000
    assert piece_bytes(1000, background=True) == 64 * 1024
    assert piece_bytes(10**12, background=True) == 4 * 1024 * 1024
    assert reads_at_once(1_000_000, 50_000_000, background=True) == 1


@pytest.mark.parametrize(
    ("rates", "reads"),
    [((None, None), 16), ((125_000, None), 4), ((50_000_000, None), 4), ((None, 160_000_000), 8), ((2 * 10**9,), 16)],
)
def test_enough_reads_run_to_fill_the_slowest_link_and_no_more(rates, reads):
    assert reads_at_once(*rates) == reads
