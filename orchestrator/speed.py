"""How fast a model's workers serve, from the requests that they have served: fields of a Profile.

Decoding is slower for each when a worker serves several at once, so each request counts with how many were decoded
beside it. Estimates are medians, of pairs for what a further request adds (Theil, Sen), so that a client that reads
slowly moves them little.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

ENOUGH = 8
"""With fewer requests nothing is believed."""
TOKENS = 8
"""A shorter answer tells of the first token's way more than of decoding."""
APART = 0.5
"""Requests with more alike numbers beside them tell nothing of what another one adds."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A streamed answer by one worker; moments in ms, of any clock. `waited`: for a worker, so its first token tells
    nothing of the prompt's work."""

    worker: str
    started_ms: int
    first_token_ms: int
    ended_ms: int
    tokens: int
    waited: bool = False

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first; None of an answer too short to tell."""
        return (self.ended_ms - self.first_token_ms) / (self.tokens - 1) if self.tokens >= TOKENS else None


def measured(answers: Sequence[Answer]) -> dict[str, int]:
    """tpot_ms, tpot_batch_us and prefill_ms, as far as these answers tell them."""
    found: dict[str, int] = {}
    prefills = [one.first_token_ms - one.started_ms for one in answers if not one.waited]
    if len(prefills) >= ENOUGH:
        found["prefill_ms"] = max(0, round(median(prefills)))
    paces = [(beside(one, answers), tpot) for one in answers if (tpot := one.tpot_ms) is not None]
    if len(paces) >= ENOUGH:
        each = _slope(paces)
        found["tpot_ms"] = max(1, round(median(tpot - each * (batch - 1) for batch, tpot in paces)))
        found["tpot_batch_us"] = round(1000 * each)
    return found


def beside(one: Answer, answers: Iterable[Answer]) -> float:
    """How many answers its worker was giving at a time while it gave this one, itself included; the mean over time."""
    span = one.ended_ms - one.first_token_ms
    if span <= 0:
        return 1.0
    shared = sum(
        max(0, min(one.ended_ms, other.ended_ms) - max(one.first_token_ms, other.first_token_ms))
        for other in answers
        if other is not one and other.worker == one.worker
    )
    return 1 + shared / span


def _slope(paces: Sequence[tuple[float, float]]) -> float:
    """ms that each further request adds to the time per token; 0 where it does not show."""
    pairs = combinations(paces, 2)
    slopes = [(t - s) / (b - a) for (a, s), (b, t) in pairs if abs(b - a) >= APART]
    return max(0.0, median(slopes)) if len(slopes) >= ENOUGH else 0.0
