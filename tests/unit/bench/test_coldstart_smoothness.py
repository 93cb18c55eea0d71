"""Which gaps between tokens count as before and which as during a consolidation, and what their 99th percentile is."""

import pytest

from bench.coldstart.smoothness import Gaps, percentile


def test_gaps_are_sorted_by_when_they_end_and_begin() -> None:
    gaps = Gaps()
    gaps.add([0.0, 1.0, 2.0, 4.0, 5.0, 9.0, 10.0], begun_s=2.0, ended_s=6.0)
    assert gaps.before == [1.0, 1.0]
    assert gaps.during == [2.0, 1.0, 4.0], "one that reaches into it, or out of it, belongs to it"


def test_without_tokens_on_either_side_there_is_no_ratio() -> None:
    gaps = Gaps()
    assert gaps.ratio() is None
    gaps.add([0.0, 1.0], begun_s=2.0, ended_s=3.0)
    assert gaps.ratio() is None
    gaps.add([2.0, 2.5], begun_s=2.0, ended_s=3.0)
    assert gaps.ratio() == 0.5


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (100, 98), (101, 99), (200, 197)])
def test_a_percentile_is_one_of_the_values(count: int, expected: int) -> None:
    assert percentile(range(count), 99) == expected
