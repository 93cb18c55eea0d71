"""How many workers a model needs, when one is idle, which one may make room, and when a failed start is tried again."""

from orchestrator.lifecycle import GroupState
from orchestrator.types import MAX_STAGES

RETRY_FIRST_MS = 1_000
"""Wait after the first failed start of a model; it doubles with each further failure."""
RETRY_LONGEST_MS = 60_000
"""The wait stops growing here."""
EARLY_DEATH_MS = 60_000
"""A worker that fails sooner than this after ready, having served nothing, counts as a failed start: else one that
always dies at once would be started again without a pause."""


def instances_needed(
    *, waiting: int, running: int, capacity: int, serving: int, starting: int, at_most: int = MAX_STAGES
) -> int:
    """How many more workers to start now: r = min(ceil(deficit / capacity), `at_most`), 0 when there is no deficit.

    deficit = waiting requests + `running` ones - slots of the `serving` and the `starting` workers, each serving
    `capacity` requests at a time. More may run than there are slots: each gateway counts for itself, so two can send a
    worker twice what it takes, and what is too much there wants another worker as a held request does. ValueError on
    a negative number or a capacity below 1.
    """
    numbers = {"waiting": waiting, "running": running, "serving": serving, "starting": starting, "at_most": at_most}
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"{name}: expected at least 0, got {number}")
    if capacity < 1:
        raise ValueError(f"capacity: expected at least 1, got {capacity}")
    deficit = waiting + running - (serving + starting) * capacity
    return min(-(-max(0, deficit) // capacity), at_most)


def idle_since(ready_ms: int, last_request_ms: int | None) -> int:
    """When an idle group's keep-alive began: at ready, or at the end of its last request if that came later."""
    return ready_ms if last_request_ms is None else max(ready_ms, last_request_ms)


def may_evict(state: GroupState, *, running: int) -> bool:
    """Whether a group that its model can do without may be ended to make room for another: only a ready and unused one.

    A group that starts or consolidates is busy by definition, and one that drains makes room already.
    """
    return state in (GroupState.PIPELINE, GroupState.STANDALONE) and running == 0


def retry_at(failures: int, failed_ms: int | None) -> int | None:
    """When a model whose last `failures` starts failed, the last one at `failed_ms`, may be started again.

    None when it need not wait. The wait doubles from RETRY_FIRST_MS to RETRY_LONGEST_MS.
    """
    if failures <= 0 or failed_ms is None:
        return None
    # The exponent is capped too, so that a model that has failed for weeks costs no big-number arithmetic.
    return failed_ms + min(RETRY_FIRST_MS << min(failures - 1, 16), RETRY_LONGEST_MS)
