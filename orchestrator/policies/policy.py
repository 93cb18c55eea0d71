"""What may differ between ways of deciding: everything else in `reconcile` is the same for all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.plan import plan
from orchestrator.types import ClusterState, NoPlan, Plan, PlanRequest

IDLE_PERCENT = 30
"""Unless an operator says otherwise."""


class MakesRoom(StrEnum):
    """When an idle worker of one model ends early because another needs its memory."""

    NEVER = "never"
    TO_START = "to_start"
    TO_MEET_SLO = "to_meet_slo"
    """Also where a start is possible, but late."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way of deciding.

    plan        how a cold start is laid out; a pure function.
    learns      whether a worker is kept for as long as its model's own pauses make it worth.
    prewarms    whether one is started before a request that is expected by these pauses.
    together    whether models that are asked for at the same moment are planned together.
    idle_percent  how much of all device memory idle workers may hold beyond the keep-alive that people have set.
    by_due      whether whose request is due first goes first, and not who has waited longest.
    """

    name: str
    plan: Callable[[PlanRequest, ClusterState], Plan | NoPlan]
    makes_room: MakesRoom = MakesRoom.TO_MEET_SLO
    learns: bool = True
    prewarms: bool = True
    idle_percent: int = IDLE_PERCENT
    together: bool = True
    by_due: bool = True


HYDRANT = Policy("hydrant", plan)
"""Ours, which the controller uses unless told otherwise."""


def published(name: str, plan: Callable[[PlanRequest, ClusterState], Plan | NoPlan]) -> Policy:
    """One that plans as a published system does, and has none of the rest that is ours."""
    return Policy(name, plan, MakesRoom.NEVER, learns=False, prewarms=False, together=False, by_due=False)
