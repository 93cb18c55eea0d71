"""From samples to figures: medians, spread, bounds, and which targets were met. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.coldstart.sample import Sample
from bench.targets import Target, at_least, at_most

Floors = Mapping[tuple[str, int], Sequence[float]]
"""(model, stages) -> seconds from the fork to the first token with weights in memory, a measurement each."""


@dataclass(frozen=True, slots=True)
class RowSummary:
    """Medians over the rounds; times in seconds, sizes in bytes. `bound_s` = max(largest stage / link, floor(s))."""

    model: str
    row: str
    rounds: int
    stages: int
    ttft_s: float
    ttft_min_s: float
    ttft_max_s: float
    speedup: float | None
    bound_s: float | None
    over_bound: float | None
    link_bytes: int
    cpu_s: float
    peak_bytes: int
    engine_s: float
    orchestration_s: float | None

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


def summarize(samples: Iterable[Sample], floors: Floors, link_bps: float) -> list[RowSummary]:
    """A summary of each row of each model, in the order in which they first came."""
    by_row: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        by_row[sample.model, sample.row].append(sample)
    naive = {model: median(s.ttft_s for s in found) for (model, row), found in by_row.items() if row == "naive"}
    return [_summary(found, floors, link_bps, naive.get(model)) for (model, _), found in by_row.items()]


def _summary(found: Sequence[Sample], floors: Floors, link_bps: float, naive_s: float | None) -> RowSummary:
    first = found[0]
    ttft = median(sample.ttft_s for sample in found)
    stages = round(median(sample.stage_count for sample in found))
    floor = floors.get((first.model, stages))
    bound = None if not floor else max(_crossing_bytes(first) / link_bps, median(floor))
    orchestration = [sample.orchestration_s for sample in found if sample.orchestration_s is not None]
    return RowSummary(
        model=first.model,
        row=first.row,
        rounds=len(found),
        stages=stages,
        ttft_s=ttft,
        ttft_min_s=min(sample.ttft_s for sample in found),
        ttft_max_s=max(sample.ttft_s for sample in found),
        speedup=None if naive_s is None else naive_s / ttft,
        bound_s=bound,
        over_bound=None if bound is None else ttft / bound,
        link_bytes=round(median(max(sample.link.values(), default=0) for sample in found)),
        cpu_s=median(sample.cpu_s for sample in found),
        peak_bytes=round(median(sample.peak_bytes for sample in found)),
        engine_s=median(sample.engine_s for sample in found),
        orchestration_s=median(orchestration) if orchestration else None,
    )


def _crossing_bytes(sample: Sample) -> int:
    """Bytes that must cross the busiest link: none when the model is in host memory already."""
    return 0 if sample.row == "memory" else sample.largest_stage_bytes


def targets(
    rows: Sequence[RowSummary], samples: Iterable[Sample], floors: Floors, smoothness: float | None
) -> list[Target]:
    """The promises of the benchmark, computed from this run. `smoothness` is Gaps.ratio()."""
    row = {(summary.model, summary.row): summary for summary in rows}
    big, small = "llama-1.4gb", "smollm2"

    def speedup(model: str, name: str) -> float | None:
        found = row.get((model, name))
        return None if found is None else found.speedup

    found_big = row.get((big, "hydrant"))
    latencies = [s.orchestration_s for s in rows if s.row == "hydrant" and s.orchestration_s is not None]
    latency = max(latencies) if latencies else None
    moved = [s.detail["consolidation"] for s in samples if s.detail.get("consolidation")]
    moves = [move["received_bytes"] / move["model_bytes"] for move in moved]
    return [
        at_least("Hydrant vs naive, 1.4 GB model, 4 nodes", 6, speedup(big, "hydrant"), "x"),
        at_least("Hydrant vs naive, SmolLM2", 5, speedup(small, "hydrant"), "x"),
        at_most(
            "Hydrant's TTFT / bound, 1.4 GB, 4 nodes", 1.35, None if found_big is None else found_big.over_bound, ""
        ),
        at_most("runtime floor vs plain launch_server", 1 / 6, _floor_ratio(row, floors, small), ""),
        at_least("in host memory vs naive, 1.4 GB", 8, speedup(big, "memory"), "x"),
        at_least("in host memory vs naive, SmolLM2", 8, speedup(small, "memory"), "x"),
        at_most("orchestration latency, median", 0.150, latency, " s"),
        at_most("received by the consolidated node / the model's bytes", 1.02, max(moves, default=None), ""),
        at_most("time between tokens, p99: during a consolidation vs before", 2, smoothness, "x"),
    ]


def _floor_ratio(row: Mapping[tuple[str, str], RowSummary], floors: Floors, model: str) -> float | None:
    plain, floor = row.get((model, "naive")), floors.get((model, 1))
    return None if plain is None or not floor else median(floor) / plain.engine_s
