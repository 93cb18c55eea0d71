"""Positions of a cold start's waterfall, in percent of the time shown. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.ops.coldstarts import WaterfallRow

LOOKS = {"queued": "queued", "prefetch": "fetch", "runtime": "runtime", "load": "load", "start": "ready"}
LABELS = {
    "queued": "queued",
    "prefetch": "fetching weights",
    "runtime": "runtime starts",
    "load": "loading onto the device",
    "start": "engine starts",
}
MARGIN = 1.04
"""A little air to the right of the last mark."""


@dataclass(frozen=True, slots=True)
class Line:
    """A bar (`width` > 0) or a moment (`width` 0), in percent; `title` heads the first line of a stage."""

    title: str | None
    label: str
    look: str
    x: float
    width: float
    start_ms: int
    end_ms: int | None

    @property
    def moment(self) -> bool:
        """Whether this is an instant rather than a span."""
        return self.width == 0


@dataclass(frozen=True, slots=True)
class Drawing:
    """Every line, and where the prediction and the grid lie, in percent."""

    lines: tuple[Line, ...]
    span_ms: int
    predicted_x: float | None
    marks: tuple[tuple[float, int], ...]
    stopped_ms: int | None
    """When it stopped: not drawn, as that comes long after the start and would squeeze everything else."""


def draw(rows: Sequence[WaterfallRow], predicted_ms: int | None, now_ms: int) -> Drawing:
    """The drawing of `rows` (milliseconds since the request); a step that has not ended reaches to `now_ms`."""
    stopped_ms = max((row.start_ms for row in rows if row.step == "stopped"), default=None)
    rows = [row for row in rows if row.step != "stopped"]
    ends = [row.start_ms if row.end_ms is None else row.end_ms for row in rows]
    open_to = min(now_ms, int(max(ends, default=0) * 1.2) + 1000)
    span = max([*ends, predicted_ms or 0, open_to if any(row.end_ms is None for row in rows) else 0, 1]) * MARGIN
    lines = []
    before = None
    for row in rows:
        end = open_to if row.end_ms is None else row.end_ms
        # Clocks of two machines may differ by a little: a bar never begins left of the request.
        x, right = (100 * max(at, 0) / span for at in (row.start_ms, end))
        title = row.label if row.stage_id != before else None
        before = row.stage_id
        width = 0.0 if row.end_ms == row.start_ms else max(right - x, 0.3)
        label = LABELS.get(row.step, row.step.replace("_", " "))
        lines.append(
            Line(title, label, LOOKS.get(row.step, "ready"), round(x, 2), round(width, 2), row.start_ms, row.end_ms)
        )
    step = _step_ms(int(span))
    marks = tuple((round(100 * at / span, 2), at) for at in range(0, int(span) + 1, step))
    predicted = None if predicted_ms is None else round(100 * predicted_ms / span, 2)
    return Drawing(tuple(lines), int(span), predicted, marks, stopped_ms)


def _step_ms(span_ms: int) -> int:
    """A round distance between grid lines that gives three to seven of them: on a phone more labels would not fit."""
    step = 1
    while True:
        for digit in (1, 2, 5):
            if span_ms / (digit * step) <= 6:
                return digit * step
        step *= 10
