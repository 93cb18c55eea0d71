"""How a row of the table is forced on Hydrant's planner: what it is told of a model, and what it then must choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.partition import split
from orchestrator.types import ModelSpec

ANY_TIME_MS = 3_600_000
NO_FLOOR = {"tail_ms": 0}
"""A profile by which only bytes take time, so that more stages are always faster."""


@dataclass(frozen=True, slots=True)
class Forced:
    """Columns of the model's row for a start over `stages` stages; None: whatever the planner likes best."""

    stages: int | None
    columns: dict[str, Any]


def force(spec: ModelSpec, stages: int, link_bps: int) -> Forced:
    """A start over exactly `stages` stages: the service level is one that one stage fewer would just miss."""
    slo_ms = ANY_TIME_MS
    if stages > 1:
        slo_ms = largest_stage_bytes(spec, stages - 1) * 1000 // link_bps
    return Forced(stages, {"max_stages": stages, "slo_ttft_ms": slo_ms, "profile": NO_FLOOR})


def free(slo_ttft_ms: int, max_stages: int, profile: dict[str, int]) -> Forced:
    """The planner's own choice for a service level, with a measured profile."""
    return Forced(None, {"max_stages": max_stages, "slo_ttft_ms": slo_ttft_ms, "profile": profile})


def largest_stage_bytes(spec: ModelSpec, stages: int) -> int:
    """Bytes of the largest of `stages` stages: what the slowest link has to carry."""
    return max(part.size_bytes for part in split(spec, stages))
