"""Who asks when for what: arrivals of a given burstiness, a skewed popularity, lengths of prompts and answers."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Lengths = Callable[[random.Random], tuple[int, int]]
"""Draws tokens of a prompt and of its answer."""
WARM_UP_GAPS = 50
"""Mean gaps that pass before the first second counts, so that a renewal process has forgotten how it began."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    at_ms: int
    model: str
    prompt_tokens: int
    output_tokens: int


def zipf(count: int, exponent: float) -> list[float]:
    """Shares of `count` models, the most popular first; they sum to 1."""
    raw = [1 / (i + 1) ** exponent for i in range(count)]
    total = sum(raw)
    return [share / total for share in raw]


def arrivals(rng: random.Random, rate: float, cv: float, seconds: float) -> list[int]:
    """Milliseconds at which a renewal process with Gamma gaps (mean 1 / `rate` s, coefficient of variation `cv`) has
    arrivals within `seconds`."""
    shape = 1 / cv**2
    scale = 1 / (rate * shape)
    at = -rng.uniform(WARM_UP_GAPS, 2 * WARM_UP_GAPS) / rate
    found = []
    while at < seconds:
        if at >= 0:
            found.append(int(at * 1000))
        at += rng.gammavariate(shape, scale)
    return found


def requests(
    shares: Mapping[str, float],
    lengths: Mapping[str, Lengths],
    *,
    rate: float,
    cv: float,
    seconds: int,
    seed: int,
    thinning: int = 1,
) -> list[Request]:
    """Exactly rate * seconds requests in order of time, as the paper made its own: a bursty trace of `thinning` times
    as many, of which that many are drawn."""
    count = round(rate * seconds)
    drawn: list[tuple[int, str]] = []
    for model, share in shares.items():
        rng = random.Random(f"{seed}/{model}")
        drawn += [(at, model) for at in arrivals(rng, thinning * rate * share, cv, seconds)]
    rng = random.Random(f"{seed}/requests")
    chosen = sorted(rng.sample(sorted(drawn), min(count, len(drawn))))
    return [Request(at, model, *lengths[model](rng)) for at, model in chosen]


def empirical(pairs: Sequence[tuple[int, int]], most: int) -> Lengths:
    """Lengths drawn from a trace, each cut at `most` tokens."""
    if not pairs:
        raise ValueError("lengths: the trace has no request")

    def draw(rng: random.Random) -> tuple[int, int]:
        prompt, output = pairs[rng.randrange(len(pairs))]
        return min(prompt, most), max(1, min(output, most))

    return draw


def quantiles(prompt: Sequence[int], output: Sequence[int], most: int) -> Lengths:
    """Lengths drawn between evenly spaced quantiles, of prompt and answer each by itself."""

    def draw(rng: random.Random) -> tuple[int, int]:
        return min(_between(prompt, rng.random()), most), max(1, min(_between(output, rng.random()), most))

    return draw


def _between(points: Sequence[int], share: float) -> int:
    place = share * (len(points) - 1)
    low = min(int(place), len(points) - 2)
    return round(points[low] + (points[low + 1] - points[low]) * (place - low))
