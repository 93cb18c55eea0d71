"""What `/metrics` shows. Labels are endpoints, statuses and registered models: never a caller's own words.

What is counted for each request is counted here first, and handed to prometheus-client with every pulse and before
every look at it: its own counters take several microseconds each.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

REQUESTS = cache(Counter("hydrant_requests_total", "Answered requests.", ["endpoint", "status"]).labels)
ATTEMPTS = cache(
    Counter("hydrant_attempts_total", "Tries of requests on workers, by their end.", ["model", "outcome"]).labels
)
TOKENS = cache(Counter("hydrant_tokens_total", "Tokens delivered, by the engine's count.", ["model", "kind"]).labels)
FIRST_TOKEN = cache(
    Histogram(
        "hydrant_first_token_seconds",
        "From a request's arrival to the first token sent to its client.",
        ["model"],
        buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160),
    ).labels
)
HELD_SECONDS = Histogram(
    "hydrant_held_seconds", "Wait for a worker.", ["model"], buckets=(0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
)
HELD = Gauge("hydrant_held_requests", "Requests waiting for a worker.", multiprocess_mode="livesum")
UNPUBLISHED = Gauge("hydrant_unpublished_events", "Endings Redis has not taken yet.", multiprocess_mode="livesum")

_counted: Tally[Counter] = Tally()
_observed: list[tuple[Histogram, float]] = []


def count(counter: Counter, amount: int = 1) -> None:
    """Adds to one of the counters above."""
    _counted[counter] += amount


def observe(histogram: Histogram, value: float) -> None:
    """Notes a value for one of the histograms above."""
    _observed.append((histogram, value))


def flush() -> None:
    """Hands over what was counted."""
    for counter, amount in _counted.items():
        counter.inc(amount)
    _counted.clear()
    for histogram, value in _observed:
        histogram.observe(value)
    _observed.clear()


def render() -> bytes:
    """The exposition text; of all worker processes where there are several."""
    flush()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest()
