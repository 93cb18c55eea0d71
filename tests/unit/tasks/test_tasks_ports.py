"""Ports for new stages."""

import pytest

from tasks.ports import free_ports


def test_ports_are_taken_in_order_from_the_start_given():
    assert free_ports(100, 109, set(), 2, start_at=0) == [100, 101]
    assert free_ports(100, 109, set(), 2, start_at=4) == [104, 105]


def test_the_range_wraps_and_taken_ports_are_passed_over():
    assert free_ports(100, 104, {104, 100}, 2, start_at=4) == [101, 102]
    assert free_ports(100, 104, set(), 3, start_at=13) == [103, 104, 100]


def test_every_free_port_can_be_had_and_none_twice():
    assert sorted(free_ports(100, 104, {102}, 4, start_at=3)) == [100, 101, 103, 104]


def test_too_few_ports_are_an_error_that_says_how_many():
    with pytest.raises(ValueError, match=r"only 1 of 2 ports are free in 100-101"):
        free_ports(100, 101, {100}, 2, start_at=0)


def test_ports_of_another_range_do_not_matter():
    assert free_ports(100, 101, {7, 200}, 2, start_at=0) == [100, 101]
