"""Geometry of the charts: plain numbers in, positions out; templates draw them as SVG. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 720
HEIGHT = 200
LEFT = 56
RIGHT = 30
"""Room for the half of the last label that its column does not cover, in a phone's large letters too."""
BOTTOM = 24
TOP = 12
MOST_LABELS = 8


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a bar chart, in SVG user units."""

    x: float
    y: float
    width: float
    height: float
    label: str
    short: str
    value: int
    show_label: bool
    middle: float


@dataclass(frozen=True, slots=True)
class BarChart:
    """Columns, and the values of the grid lines with their heights."""

    width: int
    height: int
    left: int
    baseline: int
    columns: tuple[Column, ...]
    grid: tuple[tuple[float, int], ...]


def bar_chart(points: Sequence[tuple[str, str, int]]) -> BarChart:
    """A column for each (label, label under the axis, value), value >= 0; the axis ends at a round number."""
    top = round_up(max((value for _label, _short, value in points), default=0))
    baseline = HEIGHT - BOTTOM
    room = baseline - TOP
    step = (WIDTH - LEFT - RIGHT) / max(len(points), 1)
    every = max(1, -(-len(points) // MOST_LABELS))
    columns = []
    for i, (label, short, value) in enumerate(points):
        tall = round(room * value / top, 2)
        x = round(LEFT + i * step + step * 0.12, 2)
        wide = round(step * 0.76, 2)
        columns.append(
            Column(x, baseline - tall, wide, tall, label, short, value, i % every == 0, round(x + wide / 2, 2))
        )
    # The halves of a small top would not be whole.
    marks = (0, top // 2, top) if top % 2 == 0 else (0, top)
    grid = tuple((round(baseline - room * mark / top, 2), mark) for mark in marks)
    return BarChart(WIDTH, HEIGHT, LEFT, baseline, tuple(columns), grid)


def round_up(value: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ... that is at least `value`."""
    size = 1
    while True:
        for digit in (1, 2, 5):
            if digit * size >= value:
                return digit * size
        size *= 10
