"""The results as a picture: requests, tokens and first tokens of each variant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.gateway.report import DIRECT, added_ms
from bench.gateway.rounds import Sample, of

matplotlib.use("Agg")


def draw(samples: Sequence[Sample], out: Path, title: str) -> None:
    """Write the picture to `out` (PNG). What is measured without a gateway is left out: it is many times as fast."""
    names = [name for name in dict.fromkeys(sample.variant for sample in samples) if name != DIRECT]
    figure = Figure(figsize=(13, 1.6 + 0.6 * len(names)), layout="constrained")
    figure.suptitle(title)
    requests, tokens, first = figure.subplots(1, 3)
    _bars(requests, names, [[one.json_per_s for one in of(samples, name)] for name in names], "JSON requests/s")
    _bars(tokens, names, [[one.tokens_per_s for one in of(samples, name)] for name in names], "streamed tokens/s")
    _bars(first, names, [[added_ms(samples, name) or 0.0] for name in names], "added ms to the first token", digits=2)
    figure.savefig(out, dpi=110)


def _bars(
    axes: Axes, names: Sequence[str], values: Sequence[Sequence[float]], heading: str, *, digits: int = 0
) -> None:
    middles = [median(each) for each in values]
    below = [middle - min(each) for middle, each in zip(middles, values, strict=True)]
    above = [max(each) - middle for middle, each in zip(middles, values, strict=True)]
    axes.barh(names, middles, xerr=[below, above], color="#9ecae9", edgecolor="#4c78a8", capsize=3)
    for index, middle in enumerate(middles):
        axes.text(middle + above[index], index, f"  {middle:,.{digits}f}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max(middle + more for middle, more in zip(middles, above, strict=True)) * 1.3)
    axes.set_title(heading, fontsize=11)
