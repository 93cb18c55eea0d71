"""The results as text. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median

from bench.coldstart.summary import Floors, RowSummary
from cli.console import table

LABELS = {
    "vllm": "vLLM 0.32.0 for CPUs: fetch all, then serve",
    "naive": "naive: fetch all, then launch_server",
    "prefetch": "+ prefetch: fetch beside the imports",
    "stream": "+ stream: tensors loaded as they land",
    "warm": "+ warm runtime",
    "pipeline-2": "+ pipeline of 2",
    "pipeline-4": "+ pipeline of 4",
    "compressed": "+ compressed weights",
    "hydrant": "Hydrant's own choice",
    "memory": "Hydrant, model in host memory",
}
HEADINGS = [
    *("", "stages", "first token s", "min..max", "vs naive", "bound s", "x bound"),
    *("MB on the busiest link", "CPU s", "peak GB", "orchestration s"),
]


def results(rows: Iterable[RowSummary]) -> list[str]:
    """Headings and a line for each row."""
    return table(HEADINGS, [_cells(row) for row in rows], right="0" + "1" * (len(HEADINGS) - 1))


def _cells(row: RowSummary) -> list[str]:
    return [
        LABELS.get(row.row, row.row),
        str(row.stages),
        f"{row.ttft_s:.2f}",
        f"{row.ttft_min_s:.2f}..{row.ttft_max_s:.2f}",
        _number(row.speedup, "{:.2f}x"),
        _number(row.bound_s, "{:.2f}"),
        _number(row.over_bound, "{:.2f}"),
        f"{row.link_bytes / 1e6:.0f}",
        f"{row.cpu_s:.1f}",
        f"{row.peak_bytes / 1e9:.2f}",
        _number(row.orchestration_s, "{:.3f}"),
    ]


def floors(measured: Floors) -> list[str]:
    """A line for each number of stages of each model."""
    rows = [
        [model, str(stages), f"{median(seconds):.2f}", f"{min(seconds):.2f}..{max(seconds):.2f}"]
        for (model, stages), seconds in measured.items()
    ]
    return table(["", "stages", "floor s", "min..max"], rows, right="0111")


def parts(stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Each stage's steps, in the order they came, in seconds after the request."""
    return [
        f"  {label}: " + ", ".join(f"{name} {at:.2f}" for name, at in sorted(steps.items(), key=lambda item: item[1]))
        for label, steps in stages.items()
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
