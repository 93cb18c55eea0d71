"""A waterfall in plain ASCII: rows of phases over one time axis, with a legend. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Phase = tuple[str, int, int | None]
"""(name, start, end) in milliseconds from the beginning; end None: not ended; start equal to end: a moment."""
Row = tuple[str, Sequence[Phase]]
"""(label, phases). Phases of a row may overlap: they are then drawn on lines of their own."""

MIN_BARS = 20
"""Columns for the bars, however narrow the terminal."""
_GLYPHS = {
    "queued": ".",
    "prefetch": "=",
    "runtime": "~",
    "load": "#",
    "start": "+",
    "planned": "p",
    "first_byte": "b",
    "ready": "R",
    "first_token": "*",
}
_SPARE_GLYPHS = "ABCDEFGHIJKLMNOPQSTUVWXYZ"
_NOT_ENDED = ">"


@dataclass
class _Line:
    """One line of a row. `free_ms` and `free_column` are where the last phase on it ended."""

    cells: list[str]
    free_ms: int = 0
    free_column: int = field(default=0)


def draw(rows: Sequence[Row], total_width: int) -> list[str]:
    """The waterfall as lines of at most `total_width` columns (more if that leaves no room), then axis and legend.

    Time before the beginning is cut off; every phase is at least one column wide. No phase at all: no line.
    """
    phases = [phase for _label, row in rows for phase in row]
    if not phases:
        return []
    span_ms = max(1, *(start if end is None else max(start, end) for _name, start, end in phases))
    label_width = max(len(label) for label, _row in rows)
    columns = max(MIN_BARS, total_width - label_width - 3)
    glyphs = _assign(name for name, _start, _end in phases)
    drawn: list[str] = []
    for label, row in rows:
        for number, line in enumerate(_lay_out(row, span_ms, columns, glyphs)):
            drawn.append(f"{(label if number == 0 else '').ljust(label_width)} |{''.join(line)}|")
    legend = "  ".join(f"{glyph} {name}" for name, glyph in glyphs.items())
    if any(end is None for _name, _start, end in phases):
        legend += f"  {_NOT_ENDED} not ended"
    return [*drawn, f"{'':{label_width}}  {_axis(span_ms, columns)}", f"{'':{label_width}}  {legend}"]


def _assign(names: Iterable[str]) -> dict[str, str]:
    """A glyph for each phase that occurs, the known ones first and in the order in which they usually happen."""
    occurring = dict.fromkeys(names)
    known = {name: glyph for name, glyph in _GLYPHS.items() if name in occurring}
    others = [name for name in occurring if name not in _GLYPHS]
    return known | {name: _SPARE_GLYPHS[i % len(_SPARE_GLYPHS)] for i, name in enumerate(others)}


def _lay_out(row: Sequence[Phase], span_ms: int, columns: int, glyphs: dict[str, str]) -> list[list[str]]:
    """The row's phases on as few lines as keep those that overlap in time apart."""
    lines: list[_Line] = []
    for name, start, end in sorted(row, key=lambda phase: (phase[1], span_ms if phase[2] is None else phase[2])):
        begin_ms = min(max(0, start), span_ms)
        end_ms = span_ms if end is None else max(begin_ms, min(end, span_ms))
        first = min(begin_ms * columns // span_ms, columns - 1)
        last = max(first, -(-end_ms * columns // span_ms) - 1)
        line = next((one for one in lines if one.free_ms <= begin_ms and one.free_column <= last), None)
        if line is None:
            line = _Line([" "] * columns)
            lines.append(line)
        for column in range(max(first, line.free_column), last + 1):
            line.cells[column] = glyphs[name]
        if end is None:
            line.cells[last] = _NOT_ENDED
        line.free_ms, line.free_column = end_ms, last + 1
    return [line.cells for line in lines] or [[" "] * columns]


def _axis(span_ms: int, columns: int) -> str:
    """The beginning, the middle and the end of the time axis."""
    left, middle, right = "0 s", f"{span_ms / 2000:.2f} s", f"{span_ms / 1000:.2f} s"
    room = columns - len(left) - len(middle) - len(right)
    before = max(1, columns // 2 - len(left) - len(middle) // 2)
    return left + " " * before + middle + " " * max(1, room - before) + right
