"""The simulator's parts: links as a fluid, host memory, start-up times, arrivals."""

import random
from itertools import pairwise
from statistics import mean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.simulations import GB, TIMES, sim_model

from orchestrator import deadlines, equal_share
from orchestrator.simulator.host_cache import HostCache
from orchestrator.simulator.links import Link
from orchestrator.simulator.startup import Style, fetch_at_ms, ready_ms
from orchestrator.simulator.workload import arrivals, empirical, quantiles, requests, zipf
from orchestrator.types import Fetch, Sharing, layer_group

# --- links ------------------------------------------------------------------------------------------------------------


fetches = st.lists(st.tuples(st.integers(1, 50 * GB), st.integers(0, 100_000)), min_size=1, max_size=6).map(
    lambda rows: [Fetch(str(i), "n", size, deadline_ms) for i, (size, deadline_ms) in enumerate(rows)]
)


@given(st.integers(10**6, 10**10), fetches, st.sampled_from(Sharing))
def test_a_link_ends_its_transfers_when_the_planner_says(bps, begun, sharing):
    ledger = deadlines if sharing is Sharing.BY_DEADLINE else equal_share
    link = Link(bps, sharing)
    for fetch in begun:
        link.begin(0, fetch.key, fetch.remaining_bytes, fetch.deadline_ms)
    ends: dict[str, int] = {}
    while (at := link.next_end_ms()) is not None:
        ends |= dict.fromkeys(link.complete(at), at)
    said = ledger.finish_ms(bps, begun)
    assert ends.keys() == said.keys()
    for key, at in ends.items():
        assert at == pytest.approx(said[key], abs=len(begun) + 1)


def test_a_transfer_that_is_dropped_leaves_its_share_to_the_others():
    link = Link(GB)
    link.begin(0, "a", 4 * GB, 0)
    link.begin(0, "b", 4 * GB, 0)
    assert link.next_end_ms() == 8_000
    link.drop(2_000, "b")
    link.drop(2_000, "unknown")
    assert link.next_end_ms() == 5_000
    assert link.complete(4_999) == []
    assert link.complete(5_000) == ["a"]
    assert link.next_end_ms() is None


# --- host memory ------------------------------------------------------------------------------------------------------


def test_the_model_that_was_used_longest_ago_goes_first_and_one_that_is_pinned_stays():
    one, two, three = (sim_model(name, size_gb=8).spec for name in ("one", "two", "three"))
    every = [layer_group(i) for i in range(8)]
    cache = HostCache(16 * GB)
    cache.put(one, every)
    cache.put(two, every)
    cache.touch("one")
    cache.put(three, every[:1])
    assert (len(cache.held("one")), len(cache.held("two")), len(cache.held("three"))) == (8, 0, 1)
    cache.pin("one", 1)
    cache.put(two, every)
    assert (len(cache.held("one")), len(cache.held("two")), len(cache.held("three"))) == (8, 8, 0)
    cache.pin("one", -1)
    cache.put(three, every)
    assert cache.held("one") == frozenset()


def test_what_nothing_uses_can_be_let_go_of_at_once():
    one, two = (sim_model(name, size_gb=8).spec for name in ("one", "two"))
    every = [layer_group(i) for i in range(8)]
    cache = HostCache(16 * GB)
    cache.put(one, every)
    cache.put(two, every)
    cache.pin("two", 1)
    cache.drop_unused()
    assert (len(cache.held("one")), len(cache.held("two"))) == (0, 8)


def test_what_does_not_fit_is_not_kept():
    cache = HostCache(4 * GB)
    cache.put(sim_model("one", size_gb=8).spec, [layer_group(i) for i in range(8)])
    assert cache.held("one") == frozenset()


# --- starting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "begins_ms", "fetched_ms", "ready"),
    [
        (Style.IN_SEQUENCE, 10_000, 18_000, 26_000),
        (Style.LOAD_BESIDE, 10_000, 18_000, 18_000),
        (Style.LOAD_BESIDE, 10_000, 10_000, 12_328),
        (Style.OVERLAPPED, 0, 8_000, 10_000),
        (Style.OVERLAPPED, 0, 0, 8_000),
    ],
)
def test_three_ways_to_start_a_model_of_16_gb(style, begins_ms, fetched_ms, ready):
    assert fetch_at_ms(style, TIMES) == begins_ms
    assert ready_ms(style, TIMES, fetched_ms, 16 * GB) == pytest.approx(ready, abs=1)


# --- who asks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cv", [0.5, 1, 3])
def test_arrivals_have_the_rate_and_the_burstiness_that_were_asked_for(cv):
    at = arrivals(random.Random(1), rate=5, cv=cv, seconds=20_000)
    gaps = [b - a for a, b in pairwise(at)]
    assert mean(gaps) == pytest.approx(200, rel=0.1)
    assert pstdev(gaps) / mean(gaps) == pytest.approx(cv, rel=0.1)


def test_requests_are_as_many_as_asked_for_in_order_and_the_same_for_the_same_seed():
    shares = dict(zip("abcd", zipf(4, 1.0), strict=True))
    lengths = dict.fromkeys(shares, empirical([(10, 5), (5000, 0)], most=1000))

    def draw(seed):
        return requests(shares, lengths, rate=0.5, cv=2, seconds=1000, seed=seed, thinning=8)

    one = draw(1)
    assert one == draw(1)
    assert one != draw(2)
    assert len(one) == 500
    assert [r.at_ms for r in one] == sorted(r.at_ms for r in one)
    assert {(r.prompt_tokens, r.output_tokens) for r in one} == {(10, 5), (1000, 1)}
    counts = [sum(r.model == name for r in one) for name in "abcd"]
    assert counts[0] > counts[1] > counts[3]


def test_lengths_from_quantiles_lie_between_them():
    draw = quantiles([10, 20, 400], [1, 1, 3], most=100)
    found = [draw(random.Random(seed)) for seed in range(200)]
    assert all(10 <= prompt <= 100 and 1 <= output <= 3 for prompt, output in found)
    assert sum(prompt <= 20 for prompt, _ in found) == pytest.approx(100, abs=30)
