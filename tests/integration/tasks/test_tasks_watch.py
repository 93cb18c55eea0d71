"""Since when a reader has looked without a gap."""

from __future__ import annotations

import pytest
from redis import Redis

from tasks.watch import GAP_MS, look


@pytest.fixture
def redis(redis_server):
    with Redis.from_url(redis_server.url) as client:
        yield client


def test_who_looks_often_has_looked_since_the_first_time(redis):
    assert [look(redis, "a", at) for at in (1000, 1000 + GAP_MS, 1000 + 2 * GAP_MS)] == [1000] * 3


def test_a_gap_begins_anew(redis):
    look(redis, "a", 1000)
    later = 1000 + GAP_MS + 1
    assert look(redis, "a", later) == later


def test_each_reader_has_a_clock_of_its_own(redis):
    look(redis, "a", 1000)
    for at in range(1000, 20_000, 1000):
        look(redis, "b", at)
    assert look(redis, "a", 20_000) == 20_000


def test_a_slower_reader_of_the_same_name_makes_no_gap(redis):
    look(redis, "a", 1000)
    look(redis, "a", 4000)
    assert look(redis, "a", 3500) == 1000
    assert look(redis, "a", 4000 + GAP_MS) == 1000


def test_a_clock_set_back_before_the_beginning_begins_anew(redis):
    look(redis, "a", 10_000_000)
    assert look(redis, "a", 1000) == 1000
    assert look(redis, "a", 1000 + GAP_MS + 1) == 1000 + GAP_MS + 1


def test_instants_of_today_are_kept_to_the_millisecond(redis):
    assert look(redis, "a", 1_795_000_000_123) == 1_795_000_000_123
    assert look(redis, "a", 1_795_000_001_999) == 1_795_000_000_123
