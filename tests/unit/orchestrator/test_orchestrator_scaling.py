"""How many workers, when idle, who may go, when to try again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.lifecycle import GroupState
from orchestrator.scaling import RETRY_LONGEST_MS, idle_since, instances_needed, may_evict, retry_at


@pytest.mark.parametrize(
    ("waiting", "running", "serving", "starting", "needed"),
    [
        (0, 0, 0, 0, 0),
        (1, 0, 0, 0, 1),
        (8, 0, 0, 0, 1),
        (9, 0, 0, 0, 2),
        (100, 0, 0, 0, 4),
        (8, 0, 0, 1, 0),
        (9, 0, 0, 1, 1),
        (3, 5, 1, 0, 0),
        (3, 6, 1, 0, 1),
        (3, 8, 1, 1, 0),
        (1, 20, 1, 0, 2),
        (0, 16, 1, 0, 1),
        (0, 16, 1, 1, 0),
        (0, 16, 2, 0, 0),
    ],
)
def test_workers_are_started_for_what_no_free_or_starting_slot_will_take(waiting, running, serving, starting, needed):
    counted = instances_needed(waiting=waiting, running=running, capacity=8, serving=serving, starting=starting)
    assert counted == needed


counts = st.integers(0, 50)


@given(counts, counts, st.integers(1, 20), counts, counts)
def test_never_more_than_asked_for_and_never_none_while_a_request_has_nowhere_to_go(w, r, capacity, serving, starting):
    needed = instances_needed(waiting=w, running=r, capacity=capacity, serving=serving, starting=starting)
    assert 0 <= needed <= 4
    slots = (serving + starting) * capacity
    # What runs already is at its place, even where there are no slots: only the rest of it wants another.
    assert (needed == 0) == (w + r <= slots)
    if 0 < needed < 4:
        assert w + r <= slots + needed * capacity


@pytest.mark.parametrize("field", ["waiting", "running", "serving", "starting", "capacity"])
def test_a_bad_count_is_refused_by_name(field):
    good = {"waiting": 1, "running": 1, "capacity": 1, "serving": 1, "starting": 1}
    with pytest.raises(ValueError, match=field):
        instances_needed(**(good | {field: -1}))


def test_the_idle_clock_starts_at_ready_or_at_the_last_request():
    assert idle_since(1000, None) == 1000
    assert idle_since(1000, 400) == 1000
    assert idle_since(1000, 5000) == 5000


@pytest.mark.parametrize("state", list(GroupState))
def test_only_a_ready_and_unused_group_may_be_evicted(state):
    allowed = state in (GroupState.PIPELINE, GroupState.STANDALONE)
    assert may_evict(state, running=0) is allowed
    assert not may_evict(state, running=1)


def test_a_failed_start_is_tried_again_later_and_later():
    assert retry_at(0, None) is None
    assert retry_at(0, 500) is None
    assert [retry_at(n, 500) for n in (1, 2, 3, 4)] == [1500, 2500, 4500, 8500]
    assert retry_at(10**9, 500) == 500 + RETRY_LONGEST_MS
