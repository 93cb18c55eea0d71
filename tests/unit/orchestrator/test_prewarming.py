"""When a sleeping model is expected: by its own pauses, if they show that it comes back by the clock."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clusters import NOW, a_node
from support.control_state import group, model, state

from orchestrator.control import Start, Wait
from orchestrator.groups import Cause
from orchestrator.keep_alive import LONGEST, WORTH_OF_A_START, keep_alive_ms
from orchestrator.lifecycle import GroupState
from orchestrator.policies import POLICIES
from orchestrator.prewarming import AWAY_MS, FEWEST, LEAD_MS, expected
from orchestrator.reconcile import reconcile

SET = 300_000
HOUR = 3_600_000


def hourly(count: int, jitter_ms: int = 20_000, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [HOUR + rng.randint(-jitter_ms, jitter_ms) for _ in range(count)]


def test_a_model_that_is_asked_for_every_hour_is_expected_then():
    begin, end = expected(hourly(12), SET)
    assert HOUR - 80_000 < begin < HOUR - 10_000
    assert HOUR + 10_000 < end < HOUR + 80_000


def test_a_pattern_among_other_pauses_is_seen():
    mixed = [pause for hour in hourly(10) for pause in (hour, 5_000)]
    begin, end = expected(mixed, SET)
    assert begin < HOUR < end
    assert end - begin < 150_000


def test_few_pauses_promise_nothing():
    assert expected(hourly(FEWEST - 1), SET) is None


def test_what_held_once_and_holds_no_more_is_not_expected():
    assert expected(hourly(8) + [7 * HOUR + i * 600_000 for i in range(8)], SET) is None


def test_nothing_is_expected_where_people_want_nothing_kept():
    assert expected(hourly(12), 0) is None


def test_a_worker_is_not_ended_to_be_started_a_minute_later():
    assert expected([SET * WORTH_OF_A_START // 3] * 20, SET) is None


def test_models_that_are_asked_for_at_random_are_seldom_expected():
    rng = random.Random(3)
    found = [expected([int(rng.expovariate(1 / HOUR)) for _ in range(32)], SET) for _ in range(200)]
    assert sum(window is not None for window in found) <= 10


@given(st.lists(st.integers(0, 10**8), max_size=32), st.integers(0, 10**6))
def test_a_window_is_bounded_and_begins_after_the_keep_alive(pauses, set_ms):
    window = expected(pauses, set_ms)
    if window is not None:
        assert keep_alive_ms(pauses, set_ms) + AWAY_MS <= window[0] < window[1]
        assert window[1] - window[0] <= LONGEST * set_ms


# --- what the controller makes of it ----------------------------------------------------------------------------------


def starts(decisions):
    return [decision for decision in decisions if isinstance(decision, Start)]


def worker(**changes):
    """A ready one that nobody uses."""
    return group(GroupState.STANDALONE, **changes)


def sleeping(begin_ms: int, end_ms: int, **changes):
    return model(expected_ms=(NOW + begin_ms, NOW + end_ms), **changes)


def test_a_worker_is_started_so_that_it_is_ready_in_time():
    (start,) = starts(reconcile(state(models=[sleeping(1_000, 60_000)])))
    assert (start.cause, start.plan.s) == (Cause.PREWARM, 1)
    lead_ms = start.plan.predicted_ttft_ms
    (wait,) = reconcile(state(models=[sleeping(lead_ms + 5_000, lead_ms + 60_000)]))
    assert (wait.cause, wait.retry_at_ms, wait.why) == (Cause.PREWARM, NOW + 5_000, None)


@pytest.mark.parametrize(
    ("begin_ms", "changes"),
    [
        (LEAD_MS + 1, {}),
        (-100_000, {}),
        (1_000, {"enabled": False}),
        (1_000, {"failures": 1, "failed_ms": NOW - 10**6}),
    ],
    ids=["not yet", "past", "disabled", "its last start failed"],
)
def test_nothing_is_started_for_it(begin_ms, changes):
    assert reconcile(state(models=[sleeping(begin_ms, begin_ms + 60_000, **changes)])) == []


def test_a_model_that_serves_needs_no_other_worker():
    there = worker(ready_ms=NOW - 1_000)
    assert starts(reconcile(state(there, models=[sleeping(1_000, 60_000)]))) == []


def test_a_policy_that_does_not_expect_starts_nothing():
    policy = replace(POLICIES["hydrant"], prewarms=False)
    assert reconcile(state(models=[sleeping(1_000, 60_000)]), policy) == []


def test_who_waits_goes_first():
    asked = model("b", waiting=1, oldest_waiting_ms=NOW)
    (start,) = starts(reconcile(state(models=[sleeping(1_000, 60_000), asked])))
    assert (start.model, start.cause) == ("b", Cause.DEMAND)


def test_nobody_makes_room_for_what_is_only_expected():
    full = a_node("n0", free_gb=(0.001,))
    idle = worker(model="b", ready_ms=NOW - 20_000)
    decisions = reconcile(state(idle, models=[sleeping(1_000, 60_000), model("b")], nodes=[full]))
    assert [type(decision) for decision in decisions] == [Wait]


@pytest.mark.parametrize(
    ("changes", "window", "stays"),
    [
        ({"cause": Cause.PREWARM}, (1_000, 60_000), True),
        ({"cause": Cause.PREWARM}, (-60_000, 1), True),
        ({"cause": Cause.PREWARM}, (-60_000, 0), False),
        ({"cause": Cause.PREWARM, "last_used_ms": NOW - 200_000}, (1_000, 60_000), False),
        ({}, (-1_000, 60_000), True),
        ({}, (1_000, 60_000), False),
    ],
)
def test_a_worker_stays_while_its_model_is_expected(changes, window, stays):
    idle = worker(ready_ms=NOW - 500_000, **changes)
    view = sleeping(*window, keep_alive_ms=100_000)
    assert bool(reconcile(state(idle, models=[view]))) is not stays
