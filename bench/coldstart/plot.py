"""The results as a picture: bars of first tokens with their bounds, and a waterfall of Hydrant's own choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.coldstart.sample import Sample
from bench.coldstart.summary import RowSummary
from bench.coldstart.table import LABELS

matplotlib.use("Agg")

STEPS = (
    ("fetch", "prefetch_start", "prefetch_end", "#4c78a8"),
    ("runtime", "fork", "runtime", "#f58518"),
    ("SGLang starts", "runtime", "up", "#eeca3b"),
    ("load", "load_start", "load_end", "#54a24b"),
)
"""A stage's steps: label, mark of the begin, mark of the end, colour."""


def draw(rows: Sequence[RowSummary], samples: Sequence[Sample], out: Path, title: str) -> None:
    """Write the picture to `out` (PNG)."""
    models = list(dict.fromkeys(row.model for row in rows))
    figure = Figure(figsize=(13, 4.2 * len(models)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(models), 2, squeeze=False)
    for (bars, falls), model in zip(axes, models, strict=True):
        _bars(bars, [row for row in rows if row.model == model])
        shown = [sample for sample in samples if sample.model == model and sample.row == "hydrant"]
        if shown:
            _waterfall(falls, _median_sample(shown))
    figure.savefig(out, dpi=110)


def _median_sample(samples: Sequence[Sample]) -> Sample:
    ordered = sorted(samples, key=lambda sample: sample.ttft_s)
    return ordered[len(ordered) // 2]


def _bars(axes: Axes, rows: Sequence[RowSummary]) -> None:
    labels = [LABELS.get(row.row, row.row) for row in rows]
    values = [row.ttft_s for row in rows]
    spread = [[row.ttft_s - row.ttft_min_s for row in rows], [row.ttft_max_s - row.ttft_s for row in rows]]
    axes.barh(labels, values, xerr=spread, color="#9ecae9", edgecolor="#4c78a8", capsize=3)
    for index, row in enumerate(rows):
        factor = "" if row.speedup is None else f", {row.speedup:.1f}x"
        axes.text(row.ttft_max_s, index, f"  {row.ttft_s:.1f} s{factor}", va="center", fontsize=9)
        if row.bound_s is not None:
            axes.plot([row.bound_s] * 2, [index - 0.4, index + 0.4], color="#e45756", linewidth=2)
    axes.invert_yaxis()
    axes.set_xlim(0, max(row.ttft_max_s for row in rows) * 1.25)
    axes.set_title(f"{rows[0].model}: seconds to the first token (red: bound by bytes or floor)", fontsize=11)


def _waterfall(axes: Axes, sample: Sample) -> None:
    for index, (_, steps) in enumerate(sample.stages.items()):
        for lane, (label, begin, end, colour) in enumerate(STEPS):
            if begin in steps and end in steps:
                at = index + lane * 0.2 - 0.3
                width = steps[end] - steps[begin]
                axes.barh(at, width, left=steps[begin], height=0.18, color=colour, label=label if index == 0 else None)
    axes.axvline(sample.ttft_s, color="#e45756", label="first token")
    axes.set_yticks(range(len(sample.stages)), list(sample.stages))
    axes.invert_yaxis()
    axes.set_xlim(0, sample.ttft_s * 1.05)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncol=len(STEPS) + 1, frameon=False)
    axes.set_title(f"{sample.model}: Hydrant's own choice, seconds after the request", fontsize=11)
