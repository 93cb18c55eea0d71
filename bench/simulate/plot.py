"""The simulation's results as a picture: attainment by cell, simulated and published, and the fit of cold starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.simulate import paper
from bench.simulate.cells import SYSTEMS
from bench.simulate.fit import Constants, predicted
from bench.simulate.report import Means, publish

matplotlib.use("Agg")

COLOURS = dict(zip(SYSTEMS, ("#bab0ac", "#eeca3b", "#9ecae9", "#4c78a8", "#e45756"), strict=True))


def draw(found: Means, used: Means, constants: Mapping[str, Constants], out: Path) -> None:
    """Write the picture to `out` (PNG)."""
    figure = Figure(figsize=(15, 9), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(3, 2))
    _cells(top, found)
    left, right = bottom.get_subplotspec().subgridspec(1, 2).subplots()
    bottom.remove()
    _fit(left, constants)
    _memory(right, used)
    figure.savefig(out, dpi=110)


def _cells(axes: Axes, found: Means) -> None:
    keys = [(cv, rate) for cv in paper.CVS for rate in paper.RATES]
    width = 0.8 / len(SYSTEMS)
    for i, system in enumerate(SYSTEMS):
        at = [position + width * (i - (len(SYSTEMS) - 1) / 2) for position in range(len(keys))]
        values = [found.get(system, {}).get(key, 0.0) for key in keys]
        axes.bar(at, values, width, label=system, color=COLOURS[system])
        said = [(x, publish(system, key)) for x, key in zip(at, keys, strict=True)]
        shown = [(x, value) for x, value in said if value is not None]
        label = "published" if i == 0 else None
        axes.plot([x for x, _ in shown], [y for _, y in shown], "k_", markersize=11, markeredgewidth=2, label=label)
    axes.set_xticks(range(len(keys)), [f"CV {cv}\n{rate}/s" for cv, rate in keys])
    axes.set_ylim(0, 100)
    axes.set_ylabel("first token within the service level, %")
    axes.set_title("384 models on 24 GPUs, an hour, simulated (the paper's own trace cannot be had)", fontsize=11)
    axes.legend(ncols=6, loc="lower left", fontsize=9)
    axes.grid(axis="y", alpha=0.3)


def _fit(axes: Axes, constants: Mapping[str, Constants]) -> None:
    for marker, (kind, published) in zip("os", paper.TTFT_S.items(), strict=True):
        for i, system in enumerate(paper.SYSTEMS):
            said = [row[i] for row in published.values()]
            ours = [predicted(constants[kind], paper.SIZES_GB[model])[i] for model in published]
            label = f"{kind}, {system}" if kind == "V100" else None
            axes.plot(said, ours, marker, label=label, color=list(COLOURS.values())[i], markeredgecolor="#555")
    axes.plot([0, 42], [0, 42], "k-", linewidth=0.7)
    axes.set_xlabel("published first token, s (circles: V100, squares: A10)")
    axes.set_ylabel("predicted, s")
    axes.set_title("cold starts, four constants a kind of GPU", fontsize=11)
    axes.legend(fontsize=8)


def _memory(axes: Axes, used: Means) -> None:
    names = [system for system in SYSTEMS if system in used]
    totals = [sum(used[system].values()) / len(used[system]) for system in names]
    axes.barh(names, totals, color=[COLOURS[system] for system in names])
    axes.invert_yaxis()
    axes.set_xlabel("GB hours of GPU memory in an hour, mean of the cells")
    axes.set_title("what it takes", fontsize=11)
