"""A stored plan, in words and numbers for a page."""

from dataclasses import dataclass
from typing import Any

from orchestrator.explain import reason_text, refusal_text
from orchestrator.types import Candidate, NoPlan, Plan, Verdict, outcome_from_json

VERDICTS = {
    Verdict.CHOSEN: "chosen",
    Verdict.MEETS: "meets the service level, too few workers",
    Verdict.TTFT_TOO_LONG: "first token too late",
    Verdict.TPOT_TOO_LONG: "too slow per token",
    Verdict.NO_ROOM: "not enough device memory",
    Verdict.LINKS_DOWN: "no working link",
    Verdict.LINKS_BUSY: "links are taken",
    Verdict.NO_PORTS: "not enough ports",
    Verdict.TOO_FEW_NODES: "too few nodes",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided and why. `plan` is None when nothing could be started; `problem` says so, or that the stored
    plan is of another version and cannot be read."""

    plan: Plan | None
    reasons: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    problem: str | None = None


def explained(stored: dict[str, Any]) -> Decision:
    """The plan that was stored with a cold start or group."""
    try:
        outcome = outcome_from_json(stored)
    except ValueError as error:
        return Decision(None, (), (), f"This plan was stored by another version and cannot be shown ({error}).")
    if isinstance(outcome, NoPlan):
        return Decision(None, (), outcome.candidates, refusal_text(outcome))
    return Decision(outcome, tuple(reason_text(reason) for reason in outcome.reasons), outcome.candidates)
