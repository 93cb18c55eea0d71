"""Predicted time to first token and time per output token of a pipeline of `s` stages with `w` full workers.

The formulas are HydraServe's (NSDI '26), with two repairs: the prefill time is really counted, and a fetch can hide
behind the start of the runtime but not undercut it.
"""

from orchestrator.types import Profile


def slowdown(s: int, w: int) -> tuple[int, int]:
    """k(s, w) = (s - w) + w/s as a fraction (numerator, denominator): a pipeline's worst-case time over one worker's.

    A full worker runs its 1/s of the layers at full speed. A low-memory worker owns 1/s of a shared device and, in the
    worst case, 1/s of its compute, so its share takes as long as the whole model would.
    """
    return (s - w) * s + w, s


def tpot_ms(profile: Profile, s: int, w: int, batch: int = 1) -> int | None:
    """TPOT(s, w) = tpot_b * k + hop * (s - 1), rounded up; None while the model has no measured tpot_1.

    tpot_b is a whole worker's time when it serves `batch` requests at once.
    """
    if profile.tpot_ms is None:
        return None
    batched_us = profile.tpot_ms * 1000 + profile.tpot_batch_us * (batch - 1)
    return -(-_scaled(batched_us, s, w) // 1000) + profile.hop_ms * (s - 1)


def floor_ms(profile: Profile, s: int, *, warm: bool) -> int:
    """When a stage of `s` could be ready if its bytes were there: the part of a cold start that no link shortens."""
    return profile.runtime_floor_ms + profile.per_stage_floor_ms * (s - 1) + (0 if warm else profile.plain_start_ms)


def after_fetch_ms(profile: Profile, s: int, w: int) -> int:
    """What follows the slower of fetch and runtime: tail + prefill_1 * k; an unmeasured prefill counts as 0."""
    return profile.tail_ms + _scaled(profile.prefill_ms or 0, s, w)


def ttft_ms(profile: Profile, s: int, w: int, *, waited_ms: int, slowest_ms: int) -> int:
    """TTFT(s, w) = waited + max over stages of max(floor, fetch) + tail + prefill_1 * k.

    `slowest_ms` is that maximum. The wait of the oldest request is outside it, because neither the runtime nor the
    fetch starts before the plan is made.
    """
    return waited_ms + slowest_ms + after_fetch_ms(profile, s, w)


def _scaled(value_ms: int, s: int, w: int) -> int:
    numerator, denominator = slowdown(s, w)
    return -(-value_ms * numerator // denominator)
