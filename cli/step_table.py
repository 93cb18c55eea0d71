"""A cold start's steps in seconds, a line a row of the waterfall. Pure."""

from collections.abc import Iterable

from cli.console import table
from cli.waterfall import Bar

STEPS = ("queued", "prefetch", "runtime", "load", "start")
MOMENTS = ("ready", "first_token")


def step_table(bars: Iterable[Bar]) -> list[str]:
    """Headings and a line for each row of `bars`; no line without bars.

    A step is shown as the seconds it took ("..." while it goes on), `ready` and `first_token` as the seconds after the
    request at which they came. What has no such step is shown as "-".
    """
    cells: dict[str, dict[str, str]] = {}
    labels: dict[str, str] = {}
    for bar in bars:
        labels.setdefault(bar.stage_id, bar.label)
        cells.setdefault(bar.stage_id, {})[bar.step] = _cell(bar)
    if not cells:
        return []
    shown = (*STEPS, *MOMENTS)
    headings = ["", *(name.replace("_", " ") for name in shown)]
    rows = [[labels[stage_id], *(row.get(name) for name in shown)] for stage_id, row in cells.items()]
    return table(headings, rows, right="0" + "1" * len(shown))


def _cell(bar: Bar) -> str:
    if bar.step in MOMENTS:
        return f"at {bar.start_ms / 1000:.2f} s"
    return "..." if bar.end_ms is None else f"{(bar.end_ms - bar.start_ms) / 1000:.2f} s"
