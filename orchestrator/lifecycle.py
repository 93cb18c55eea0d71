"""The states of a group and the only moves between them.

    planned -> starting -> pipeline -> consolidating -> standalone -> draining -> stopped

A group of one stage goes from starting straight to standalone. A pipeline whose standalone worker grows as a group of
its own drains when that worker has taken over. Any group that is not over may fail.
"""

from collections.abc import Mapping
from enum import StrEnum

from orchestrator.why import Why


class GroupState(StrEnum):
    """Where a group (one or more engine processes serving one model together) is in its life."""

    PLANNED = "planned"
    STARTING = "starting"
    PIPELINE = "pipeline"
    CONSOLIDATING = "consolidating"
    STANDALONE = "standalone"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


TRANSITIONS: Mapping[GroupState, frozenset[GroupState]] = {
    # Planned or starting to draining: called off before it served; its processes may exist already.
    GroupState.PLANNED: frozenset({GroupState.STARTING, GroupState.DRAINING, GroupState.FAILED}),
    GroupState.STARTING: frozenset(
        {GroupState.PIPELINE, GroupState.STANDALONE, GroupState.DRAINING, GroupState.FAILED}
    ),
    GroupState.PIPELINE: frozenset({GroupState.CONSOLIDATING, GroupState.DRAINING, GroupState.FAILED}),
    # Back to pipeline: the standalone worker could not be started, and the pipeline still serves.
    GroupState.CONSOLIDATING: frozenset(
        {GroupState.STANDALONE, GroupState.PIPELINE, GroupState.DRAINING, GroupState.FAILED}
    ),
    GroupState.STANDALONE: frozenset({GroupState.DRAINING, GroupState.FAILED}),
    GroupState.DRAINING: frozenset({GroupState.STOPPED, GroupState.FAILED}),
    GroupState.STOPPED: frozenset(),
    GroupState.FAILED: frozenset(),
}
"""Every state with the states that may follow it."""

SERVING = frozenset({GroupState.PIPELINE, GroupState.CONSOLIDATING, GroupState.STANDALONE})
"""States in which a group takes new requests."""

OVER = frozenset({GroupState.STOPPED, GroupState.FAILED})
"""States that nothing follows."""


class IllegalTransition(ValueError):
    """A group was asked to move to a state that may not follow the one it is in."""

    def __init__(self, group_id: str, state: GroupState, to: GroupState) -> None:
        allowed = ", ".join(sorted(TRANSITIONS[state])) or "nothing"
        super().__init__(f"group {group_id} is {state} and cannot become {to}; what may follow: {allowed}")
        self.group_id = group_id
        self.state = state
        self.to = to


class MissingReason(ValueError):
    """A group was marked failed without saying why."""


def move(group_id: str, state: GroupState, to: GroupState, why: Why | None = None) -> GroupState:
    """`to`, when it may follow `state`; raises IllegalTransition otherwise, MissingReason for a failure without one."""
    if to not in TRANSITIONS[state]:
        raise IllegalTransition(group_id, state, to)
    if to is GroupState.FAILED and why is None:
        raise MissingReason(f"group {group_id} cannot be marked failed without a reason")
    return to
