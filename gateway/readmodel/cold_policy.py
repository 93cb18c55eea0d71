"""What becomes of a request for a model that sleeps: it waits, a provider answers it, or it is sent away. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Step(Enum):
    """What to do with a request now."""

    WAIT = "wait"  # in line, to the hold's deadline
    WAIT_A_LITTLE = "wait_a_little"  # in line, until the policy's moment
    FALL_BACK = "fall_back"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class ColdPolicy:
    """`mode` is wait, fallback (to the model named `fallback`, after `after_s` seconds in line) or reject."""

    mode: str = "wait"
    after_s: int = 0
    fallback: str | None = None


WAIT = ColdPolicy()


def next_step(policy: ColdPolicy, *, cold: bool, waited_s: float) -> Step:
    """`cold`: no worker serves the model now, ready or busy; `waited_s`: since the request arrived."""
    if not cold or policy.mode == "wait":
        return Step.WAIT
    if policy.mode == "reject":
        return Step.REJECT
    return Step.FALL_BACK if waited_s >= policy.after_s else Step.WAIT_A_LITTLE
