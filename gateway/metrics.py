"""What `/metrics` shows. Labels are endpoints, statuses and registered models: never a caller's own words. So what is
counted for each request keeps what it has found for its labels."""

from __future__ import annotations

import os
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


def render() -> bytes:
    """The exposition text; of all worker processes where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest()
