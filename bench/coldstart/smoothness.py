"""What a consolidation does to streams that run meanwhile: the time between their tokens, before and during it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bench.coldstart.direct import DirectGroup
from bench.lab import Lab
from orchestrator.types import ModelSpec
from registry.models import Model

STREAMS = 2
BEFORE_S = 8.0
TOKENS = 400
"""Of each stream: more than come before and during the consolidation, so that none ends too early."""


@dataclass
class Gaps:
    """Seconds between tokens of a stream, before and during consolidations."""

    before: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)

    def add(self, times: Sequence[float], begun_s: float, ended_s: float) -> None:
        """A stream's tokens came at `times`; the consolidation went from `begun_s` to `ended_s` (all monotonic)."""
        for earlier, later in pairwise(times):
            if later <= begun_s:
                self.before.append(later - earlier)
            elif later > begun_s and earlier < ended_s:
                self.during.append(later - earlier)

    def ratio(self) -> float | None:
        """The 99th percentile during over that before; None without either."""
        if not self.before or not self.during:
            return None
        return percentile(self.during, 99) / percentile(self.before, 99)


def percentile(values: Iterable[float], percent: int) -> float:
    """The smallest value that is not below `percent` per cent of them."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def measure(lab: Lab, row: Model, spec: ModelSpec, body: dict[str, Any], gaps: Gaps) -> None:
    """One pipeline of two that is consolidated on its first node while streams run on it. Raises LabError."""
    nodes = list(lab.nodes.values())[:2]
    pipeline = DirectGroup(row, spec, nodes)
    heir = DirectGroup(row, spec, nodes[:1], slot=1, background=True)
    pipeline.fetch()
    pipeline.launch()
    try:
        pipeline.wait_ready()
        long = body | {"max_tokens": TOKENS, "ignore_eos": True}
        streams = [lab.start_ask(pipeline.url, long, pipeline.key) for _ in range(STREAMS)]
        for stream in streams:
            lab.first_token(stream)
        time.sleep(BEFORE_S)
        begun_s = time.monotonic()
        heir.fetch()
        try:
            heir.launch()
            heir.wait_ready()
            ended_s = time.monotonic()
            for stream in streams:
                gaps.add(lab.finish_ask(stream)["token_s"], begun_s, ended_s)
        finally:
            heir.stop()
    finally:
        pipeline.stop()
