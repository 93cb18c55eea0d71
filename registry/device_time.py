"""Device time: how much of it stages hold, when a worker was in use, and how an amount is divided exactly. Pure.

The unit is the GPU-microsecond: a whole device for a microsecond. A stage that reserves a part of a device's memory
counts for that part, since others may start on the rest: so what all models together hold of a device is never more
than the time that has passed.
"""

from collections.abc import Iterable, Mapping

US_PER_MS = 1000
US_PER_S = 1_000_000


def gpu_us(duration_ms: int, stages: Iterable[tuple[int, int | None]]) -> int:
    """GPU-microseconds of stages, each (bytes reserved, bytes of its device), that are held for `duration_ms`.

    Rounded down for each stage; a device that is not known (any more) counts as a whole.
    """
    held_us = max(0, duration_ms) * US_PER_MS
    return sum(held_us * min(reserved, memory) // memory if memory else held_us for reserved, memory in stages)


def cost_nusd(time_gpu_us: int, gpu_second_nusd: int) -> int:
    """Nano-dollars of device time, rounded down."""
    return time_gpu_us * gpu_second_nusd // US_PER_S


def busy_ms(runs: Iterable[tuple[int, int]], began_ms: int, ended_ms: int) -> int:
    """How many milliseconds of [began, ended) lie in at least one of `runs`, (from, until), ordered by their begin."""
    total, reached = 0, began_ms
    for start, end in runs:
        start, end = max(start, reached), min(end, ended_ms)
        if end > start:
            total += end - start
            reached = end
    return total


def split(amount: int, weights: Mapping[str, int]) -> dict[str, int]:
    """`amount` (>= 0) divided in proportion to `weights` (each > 0), to the last unit: the shares sum to it.

    Each gets its part rounded down; the units that are left go to the largest remainders, of equals by name.
    """
    whole = sum(weights.values())
    shares = {name: amount * weight // whole for name, weight in weights.items()}
    left = amount - sum(shares.values())
    by_remainder = sorted(weights, key=lambda name: (-(amount * weights[name] % whole), name))
    for name in by_remainder[:left]:
        shares[name] += 1
    return shares
