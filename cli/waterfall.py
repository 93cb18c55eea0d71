"""A waterfall in plain ASCII: a row a stage, a bar a step, over one time axis, with a legend. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Bar(Protocol):
    """One step, in milliseconds from the beginning. `end_ms` None: not ended; equal to `start_ms`: a moment.

    Bars with the same `stage_id` share a row. `registry.ops.coldstarts.WaterfallRow` is one of these.
    """

    @property
    def stage_id(self) -> str:
        """What the row is of."""

    @property
    def label(self) -> str:
        """What the row is called."""

    @property
    def step(self) -> str:
        """Which step this is: what the legend names."""

    @property
    def start_ms(self) -> int:
        """When it began."""

    @property
    def end_ms(self) -> int | None:
        """When it ended."""


MIN_BARS = 20
"""Columns for the bars, however narrow the terminal."""
MAX_SHIFT = 3
"""Columns by which a bar may be drawn late."""
_GLYPHS = {
    "queued": ".",
    "prefetch": "=",
    "runtime": "~",
    "load": "#",
    "start": "+",
    "planned": "p",
    "ready": "R",
    "first_token": "*",
}
_SPARE_GLYPHS = "ABCDEFGHIJKLMNOPQSTUVWXYZ"
_NOT_ENDED = ">"
# The first byte lies inside the prefetch's bar; a stop comes long after the start and would squeeze everything else.
_NOT_DRAWN = frozenset({"first_byte", "stopped"})


@dataclass
class _Line:
    """One line of a row. `free_ms` and `free_column` are where the last bar on it ended."""

    cells: list[str]
    free_ms: int = 0
    free_column: int = 0


def draw(bars: Iterable[Bar], width: int) -> list[str]:
    """The waterfall as lines of at most `width` columns (more if that leaves no room), then the axis and the legend.

    Steps of a row that overlap in time are drawn on lines of their own. Every bar is at least one column wide; what
    lies before the beginning is cut off. No bar: no line.
    """
    shown = [bar for bar in bars if bar.step not in _NOT_DRAWN]
    if not shown:
        return []
    rows: dict[str, list[Bar]] = {}
    for bar in shown:
        rows.setdefault(bar.stage_id, []).append(bar)
    span_ms = max(1, *(bar.start_ms if bar.end_ms is None else max(bar.start_ms, bar.end_ms) for bar in shown))
    label_width = max(len(bar.label) for bar in shown)
    columns = max(MIN_BARS, width - label_width - 3)
    glyphs = _assign(bar.step for bar in shown)
    drawn: list[str] = []
    for row in rows.values():
        label = row[0].label
        for cells in _lay_out(row, span_ms, columns, glyphs):
            drawn.append(f"{label.ljust(label_width)} |{''.join(cells)}|")
            label = ""
    legend = [f"{glyph} {step}" for step, glyph in glyphs.items()]
    if any(bar.end_ms is None for bar in shown):
        legend.append(f"{_NOT_ENDED} not ended")
    margin = " " * (label_width + 2)
    return [*drawn, margin + _axis(span_ms, columns), *(margin + line for line in _wrap(legend, columns))]


def _assign(steps: Iterable[str]) -> dict[str, str]:
    """A glyph for each step that occurs, the known ones first and in the order in which they usually happen."""
    occurring = dict.fromkeys(steps)
    known = {step: glyph for step, glyph in _GLYPHS.items() if step in occurring}
    others = [step for step in occurring if step not in _GLYPHS]
    return known | {step: _SPARE_GLYPHS[i % len(_SPARE_GLYPHS)] for i, step in enumerate(others)}


def _lay_out(row: Sequence[Bar], span_ms: int, columns: int, glyphs: dict[str, str]) -> list[list[str]]:
    """The row's bars on as few lines as keep those that overlap in time apart."""
    lines: list[_Line] = []
    for bar in sorted(row, key=lambda bar: (bar.start_ms, span_ms if bar.end_ms is None else bar.end_ms)):
        begin_ms = max(0, bar.start_ms)
        end_ms = span_ms if bar.end_ms is None else max(begin_ms, bar.end_ms)
        first = min(begin_ms * columns // span_ms, columns - 1)
        last = max(first, -(-end_ms * columns // span_ms) - 1)
        line = next((one for one in lines if one.free_ms <= begin_ms and _fits(one, first, columns)), None)
        if line is None:
            line = _Line([" "] * columns)
            lines.append(line)
        first = max(first, line.free_column)
        last = max(first, last)
        for column in range(first, last + 1):
            line.cells[column] = glyphs[bar.step]
        if bar.end_ms is None:
            line.cells[last] = _NOT_ENDED
        line.free_ms, line.free_column = end_ms, last + 1
    return [line.cells for line in lines]


def _fits(line: _Line, first: int, columns: int) -> bool:
    """Whether a bar from column `first` has room: it may be moved a little, for those before it that are very short."""
    return line.free_column < columns and line.free_column - first <= MAX_SHIFT


def _axis(span_ms: int, columns: int) -> str:
    """The beginning, the middle and the end of the time axis."""
    left, middle, right = "0 s", f"{span_ms / 2000:.2f} s", f"{span_ms / 1000:.2f} s"
    before = max(1, columns // 2 - len(left) - len(middle) // 2)
    after = max(1, columns - len(left) - before - len(middle) - len(right))
    return left + " " * before + middle + " " * after + right


def _wrap(words: Sequence[str], columns: int) -> list[str]:
    """`words` two blanks apart on as many lines as they need."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 2 + len(word) <= columns:
            lines[-1] += f"  {word}"
        else:
            lines.append(word)
    return lines
