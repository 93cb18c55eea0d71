"""The table beside the waterfall: each step's length, and when what happens at a moment came."""

from dataclasses import dataclass

from cli.step_table import step_table


@dataclass(frozen=True)
class Bar:
    stage_id: str
    label: str
    step: str
    start_ms: int
    end_ms: int | None


def test_nothing_happened_is_no_line() -> None:
    assert step_table([]) == []


def test_a_line_a_row_with_lengths_and_moments() -> None:
    lines = step_table(
        [
            Bar("", "group", "planned", 3, 3),
            Bar("", "group", "ready", 9_000, 9_000),
            Bar("", "group", "first_token", 9_400, 9_400),
            Bar("s0", "rank 0 on a", "queued", 10, 60),
            Bar("s0", "rank 0 on a", "prefetch", 60, 8_060),
            Bar("s1", "rank 1 on b", "prefetch", 60, None),
            Bar("s1", "rank 1 on b", "stopped", 99_000, 99_000),
        ]
    )
    heading, group, first, second = (line.split("  ") for line in lines)
    cells = [[cell.strip() for cell in line if cell.strip()] for line in (heading, group, first, second)]
    assert cells[0] == ["queued", "prefetch", "runtime", "load", "start", "ready", "first token"]
    assert cells[1] == ["group", "-", "-", "-", "-", "-", "at 9.00 s", "at 9.40 s"]
    assert cells[2] == ["rank 0 on a", "0.05 s", "8.00 s", "-", "-", "-", "-", "-"]
    assert cells[3] == ["rank 1 on b", "-", "...", "-", "-", "-", "-", "-"]
