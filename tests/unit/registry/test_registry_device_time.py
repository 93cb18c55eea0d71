"""Device time: exact division, shares of devices, and when a worker was in use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.device_time import busy_ms, cost_nusd, gpu_us, split

WEIGHTS = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 10**6), min_size=1, max_size=12)


@given(amount=st.integers(0, 10**18), weights=WEIGHTS)
def test_shares_sum_to_the_amount_and_are_off_by_less_than_one(amount: int, weights: dict[str, int]) -> None:
    shares = split(amount, weights)
    whole = sum(weights.values())
    assert sum(shares.values()) == amount
    assert shares.keys() == weights.keys()
    for name, weight in weights.items():
        assert abs(shares[name] * whole - amount * weight) < whole


@given(amount=st.integers(0, 10**18), weights=WEIGHTS, chance=st.randoms())
def test_the_order_of_the_shares_decides_nothing(amount: int, weights: dict[str, int], chance: object) -> None:
    names = list(weights)
    chance.shuffle(names)  # type: ignore[attr-defined]
    assert split(amount, {name: weights[name] for name in names}) == split(amount, weights)


def test_what_is_left_goes_to_the_largest_remainders() -> None:
    assert split(100, {"a": 1, "b": 1, "c": 1}) == {"a": 34, "b": 33, "c": 33}
    assert split(10, {"a": 1, "b": 5}) == {"a": 2, "b": 8}
    assert split(1, {"b": 1, "a": 1}) == {"a": 1, "b": 0}


def test_a_stage_counts_for_its_part_of_the_devices_memory() -> None:
    assert gpu_us(2_000, [(20, 80), (40, 80)]) == 2_000_000 // 4 + 2_000_000 // 2
    assert gpu_us(3, [(1, 7)]) == 3_000 // 7
    assert gpu_us(-5, [(1, 1)]) == 0


@pytest.mark.parametrize("memory", [None, 0, 10])
def test_a_device_that_is_unknown_or_overfull_counts_whole(memory: int | None) -> None:
    assert gpu_us(1_000, [(20, memory)]) == 1_000_000


@given(times=st.lists(st.integers(0, 10**5), max_size=8), price=st.integers(0, 10**10))
def test_device_time_costs_by_the_second_and_never_more(times: list[int], price: int) -> None:
    assert cost_nusd(1_000_000, price) == price
    assert sum(cost_nusd(one, price) for one in times) <= cost_nusd(sum(times), price)


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)).map(lambda t: (t[0], t[0] + t[1])), max_size=12)


@given(runs=SPANS, began=st.integers(0, 40), lasted=st.integers(0, 40))
def test_a_moment_is_busy_once_however_many_requests_run(runs: list[tuple[int, int]], began: int, lasted: int) -> None:
    ended = began + lasted
    slow = sum(any(start <= at < end for start, end in runs) for at in range(began, ended))
    assert busy_ms(sorted(runs), began, ended) == slow
