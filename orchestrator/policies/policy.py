"""What may differ between ways of deciding: everything else in `reconcile` is the same for all of them."""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.plan import plan
from orchestrator.types import ClusterState, NoPlan, Plan, PlanRequest


@dataclass(frozen=True, slots=True)
class Policy:
    """A way of deciding.

    plan        how a cold start is laid out; a pure function.
    makes_room  whether an idle worker of one model ends early when another needs its memory.
    """

    name: str
    plan: Callable[[PlanRequest, ClusterState], Plan | NoPlan]
    makes_room: bool = True


HYDRANT = Policy("hydrant", plan)
"""Ours, which the controller uses unless told otherwise."""
