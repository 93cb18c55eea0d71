"""The table of moves is complete, and nothing outside it is allowed."""

from itertools import pairwise, product

import pytest

from orchestrator.lifecycle import OVER, SERVING, TRANSITIONS, GroupState, IllegalTransition, MissingReason, move
from orchestrator.why import Why, WhyCode

LIFE = [
    GroupState.PLANNED,
    GroupState.STARTING,
    GroupState.PIPELINE,
    GroupState.CONSOLIDATING,
    GroupState.STANDALONE,
    GroupState.DRAINING,
    GroupState.STOPPED,
]


def test_every_state_has_a_row():
    assert set(TRANSITIONS) == set(GroupState)


@pytest.mark.parametrize(("state", "to"), list(pairwise(LIFE)))
def test_the_life_of_a_pipeline_is_allowed(state, to):
    assert move("g", state, to) is to


def test_a_single_stage_goes_straight_to_standalone():
    assert move("g", GroupState.STARTING, GroupState.STANDALONE) is GroupState.STANDALONE


def test_a_failed_consolidation_leaves_the_pipeline_serving():
    assert move("g", GroupState.CONSOLIDATING, GroupState.PIPELINE) is GroupState.PIPELINE


@pytest.mark.parametrize(("state", "to"), [p for p in product(GroupState, GroupState) if p[1] not in TRANSITIONS[p[0]]])
def test_any_other_move_is_an_error_that_says_what_may_follow(state, to):
    with pytest.raises(
        IllegalTransition, match=f"group g is {state} and cannot become {to}; what may follow: "
    ) as error:
        move("g", state, to, Why(WhyCode.REPLACED))
    assert (error.value.group_id, error.value.state, error.value.to) == ("g", state, to)


@pytest.mark.parametrize("state", sorted(set(GroupState) - OVER))
def test_every_group_that_is_not_over_may_fail_and_must_say_why(state):
    assert move("g", state, GroupState.FAILED, Why(WhyCode.STAGE_GONE)) is GroupState.FAILED
    with pytest.raises(MissingReason, match="group g"):
        move("g", state, GroupState.FAILED)


def test_what_is_over_stays_over():
    assert all(not TRANSITIONS[state] for state in OVER)


def test_every_group_can_reach_an_end_without_failing():
    for start in GroupState:
        seen, frontier = {start}, [start]
        while frontier:
            state = frontier.pop()
            new = (TRANSITIONS[state] - {GroupState.FAILED}) - seen
            seen |= new
            frontier += new
        assert seen & OVER


def test_only_ready_groups_take_requests():
    assert SERVING.isdisjoint(OVER | {GroupState.PLANNED, GroupState.STARTING, GroupState.DRAINING})
