"""What starts have really taken, and the profile to predict the next ones by.

A start gives one Observation for each kind of device it ran on. Estimates are medians over the newest of them, so that
a start which went wrong in its own way moves them little, and nothing is believed before enough of them agree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from orchestrator import predict
from orchestrator.codec import Record
from orchestrator.types import Profile

WINDOW = 24
"""The newest observations that count: what a driver, an engine or a disk was like before is forgotten by then."""
ENOUGH = 3
"""With fewer an estimate could be one odd start's."""

TELLING_MS = 500
"""A shorter fetch tells of its first byte's way more than of the link."""

Marks = Mapping[str, int]
"""A stage's timed steps as its node's clock had them: event kind to ms since the epoch."""


@dataclass(frozen=True, slots=True)
class StageMarks:
    """What is known of one stage of a start that has answered. `kind`: of its device."""

    kind: str
    marks: Marks


@dataclass(frozen=True, slots=True)
class Observation(Record):
    """One start on one kind of device; None where it does not tell.

    stages    of the pipeline.
    floor_ms  from the order to the last of its stages having done what needs no weights, plain starts left out.
    plain_ms  importing the engine, by a stage that was not forked from a warm runtime.
    tail_ms   from then, or from its last byte if that came later, to the first token, the prompt's prefill left out.
    """

    stages: int
    floor_ms: int | None = None
    plain_ms: int | None = None
    tail_ms: int | None = None


def observe(
    stages: Sequence[StageMarks], full: int, first_token_ms: int | None, profile: Profile
) -> list[tuple[str, Observation]]:
    """(kind, observation) for each kind of device that a start ran on.

    `full`: how many of its nodes could take a whole worker. `first_token_ms`: ms from the start's order to the first
    token of a request that waited for it; None when none did. `profile`: by which the prefill is left out.
    """
    kinds = dict.fromkeys(stage.kind for stage in stages)
    slowest = max((_slowest_ms(stage.marks) for stage in stages), default=0)
    tail = None
    if first_token_ms is not None and first_token_ms >= slowest > 0:
        prefill = predict.after_fetch_ms(profile, len(stages), full) - profile.tail_ms
        tail = max(0, first_token_ms - slowest - prefill)
    found = []
    for kind in kinds:
        mine = [stage.marks for stage in stages if stage.kind == kind]
        floors = [floor for floor in map(_floor_ms, mine) if floor is not None]
        plain = [ms for ms in map(_plain_ms, mine) if ms > 0]
        found.append(
            (
                kind,
                Observation(
                    stages=len(stages),
                    floor_ms=max(floors) if len(floors) == len(mine) else None,
                    plain_ms=max(plain, default=None),
                    tail_ms=tail,
                ),
            )
        )
    return found


def learn(observations: Sequence[tuple[str, Observation]], per_stage_ms: int = 0) -> dict[str, int]:
    """What the newest of `observations` agree on: fields of a Profile, without those they do not tell.

    They are (model, observation), oldest first; of several models, what they have in common is learnt. `per_stage_ms`:
    what each further stage is taken to add while all starts of a model had equally many.
    """
    newest = observations[-WINDOW:]
    floors = [(model, seen.stages, seen.floor_ms) for model, seen in newest if seen.floor_ms is not None]
    tails = [seen.tail_ms for _, seen in newest if seen.tail_ms is not None]
    plain = [seen.plain_ms for _, seen in newest if seen.plain_ms is not None]
    learnt: dict[str, int] = {}
    if len(floors) >= ENOUGH:
        each = _slope(floors, per_stage_ms)
        first = median(floor - each * (stages - 1) for _, stages, floor in floors)
        learnt |= {"runtime_floor_ms": max(0, round(first)), "per_stage_floor_ms": each}
    if len(tails) >= ENOUGH:
        learnt["tail_ms"] = round(median(tails))
    if len(plain) >= ENOUGH:
        learnt["plain_start_ms"] = round(median(plain))
    return learnt


def error_permille(predicted_and_real: Iterable[tuple[int, int]]) -> int | None:
    """The median of |predicted - real| / real in thousandths over the newest pairs; None without any."""
    pairs = [(predicted, real) for predicted, real in predicted_and_real if real > 0][-WINDOW:]
    return round(median(1000 * abs(predicted - real) / real for predicted, real in pairs)) if pairs else None


def fetch_bps(marks: Marks, size_bytes: int) -> int | None:
    """Bytes/s that the fetch of a stage's `size_bytes` really had; None of one too short to tell."""
    if "prefetch_start" not in marks or "prefetch_end" not in marks:
        return None
    took_ms = marks["prefetch_end"] - marks["prefetch_start"]
    return size_bytes * 1000 // took_ms if took_ms >= TELLING_MS and size_bytes > 0 else None


def link_bps(told_bps: int, seen_bps: Sequence[int]) -> int:
    """Bytes/s to plan with, of a link that is said to have `told_bps` and whose newest fetches had `seen_bps`.

    The best of them: neighbours on the link and slow sources only ever make a fetch slower than the link is.
    """
    newest = seen_bps[-WINDOW:]
    return min(told_bps, max(newest)) if len(newest) >= ENOUGH else told_bps


def _slope(floors: Sequence[tuple[str, int, int]], otherwise: int) -> int:
    """ms that each further stage adds: the median over all pairs of a model's starts with unlike numbers of stages
    (Theil, Sen). `otherwise` while fewer than ENOUGH pairs tell."""
    pairs = combinations(floors, 2)
    slopes = [(b - a) / (t - s) for (one, s, a), (other, t, b) in pairs if one == other and s != t]
    return max(0, round(median(slopes))) if len(slopes) >= ENOUGH else otherwise


def _slowest_ms(marks: Marks) -> int:
    """From the order to the later of: its bytes were there, and its runtime could go no further without them."""
    ends = [end for end in (marks.get("prefetch_end"), _runtime_end(marks)) if end is not None]
    return max(ends) - marks["queued"] if ends and "queued" in marks else 0


def _floor_ms(marks: Marks) -> int | None:
    end = _runtime_end(marks)
    if "queued" not in marks or end is None:
        return None
    return max(0, end - marks["queued"] - _plain_ms(marks))


def _runtime_end(marks: Marks) -> int | None:
    """When the start had done all that needs no weights: it was up, or waited for them before it was."""
    return min((marks[kind] for kind in ("wanted", "up") if kind in marks), default=None)


PLAIN_MS = 1_000
"""A fork of a warm runtime is a stage within 50 ms; an interpreter that imports the engine takes seconds."""


def _plain_ms(marks: Marks) -> int:
    """What importing the engine took; 0 for a fork."""
    if "fork" not in marks or "runtime" not in marks:
        return 0
    took = marks["runtime"] - marks["fork"]
    return took if took >= PLAIN_MS else 0
