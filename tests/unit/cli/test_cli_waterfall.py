"""The drawing: everything shows, nothing leaves the picture, what overlaps stays apart."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from cli.waterfall import MIN_BARS, draw


@dataclass(frozen=True)
class Bar:
    stage_id: str
    label: str
    step: str
    start_ms: int
    end_ms: int | None


def picture(*bars: tuple[str, str, int, int | None], width: int = 80) -> list[str]:
    return draw([Bar(row, row, step, start, end) for row, step, start, end in bars], width)


def test_nothing_to_draw_is_no_line() -> None:
    assert draw([], 80) == []
    assert picture(("a", "stopped", 5, 5)) == []


def test_steps_that_follow_each_other_share_a_line_and_keep_their_proportions() -> None:
    lines = picture(("a", "queued", 0, 250), ("a", "prefetch", 250, 1000), width=1 + 3 + 40)
    assert lines[0] == "a |" + "." * 10 + "=" * 30 + "|"
    assert len(lines) == 3


def test_steps_that_overlap_get_lines_of_their_own_under_one_label() -> None:
    lines = picture(("rank 0", "prefetch", 0, 800), ("rank 0", "runtime", 0, 1000), ("rank 0", "load", 800, 1000))
    assert [line.startswith("rank 0 |") for line in lines[:2]] == [True, False]
    assert lines[0].count("=") > lines[0].count("#") > 0
    assert set(lines[1]) == {" ", "|", "~"}


def test_a_step_of_no_length_is_still_seen() -> None:
    lines = picture(("a", "prefetch", 0, 1_000_000), ("b", "queued", 3, 3), ("b", "first_token", 1_000_000, 1_000_000))
    assert lines[1].count(".") == 1
    assert lines[1].endswith("*|")


def test_short_steps_in_a_row_are_all_seen() -> None:
    bars = [("a", "queued", 0, 1), ("a", "prefetch", 1, 2), ("a", "load", 2, 3), ("a", "start", 3, 100_000)]
    line = picture(*bars)[0]
    assert all(glyph in line for glyph in ".=#+")


def test_an_unfinished_step_reaches_the_edge_and_the_legend_says_what_it_means() -> None:
    lines = picture(("a", "prefetch", 0, None), ("b", "runtime", 0, 400))
    assert lines[0].endswith("=>|")
    assert "> not ended" in lines[-1]


def test_what_began_before_the_request_is_cut_off() -> None:
    lines = picture(("a", "prefetch", -500, 500), ("a", "load", 500, 1000))
    assert lines[0].startswith("a |=")


def test_an_unknown_step_gets_a_letter_and_is_named() -> None:
    lines = picture(("a", "defrosting", 0, 10), ("a", "prefetch", 10, 20))
    assert "= prefetch" in lines[-1]
    assert "A defrosting" in lines[-1]


def test_a_stop_hours_later_does_not_squeeze_the_start() -> None:
    with_stop = picture(("a", "prefetch", 0, 100), ("a", "stopped", 10_000_000, 10_000_000))
    assert with_stop == picture(("a", "prefetch", 0, 100))


def test_the_legend_wraps_at_the_width() -> None:
    bars = [("a", f"step number {i}", i, i + 1) for i in range(12)]
    assert all(len(line) <= 60 for line in picture(*bars, width=60))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "bb", "rank 0 on node-a"]),
            st.sampled_from(["queued", "prefetch", "runtime", "load", "start", "ready", "other"]),
            st.integers(-1000, 10**7),
            st.none() | st.integers(-1000, 10**7),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 200),
)
def test_whatever_happened_the_picture_is_whole(bars: list[tuple[str, str, int, int | None]], width: int) -> None:
    lines = picture(*bars, width=width)
    drawn = [line for line in lines if line.endswith("|")]
    label = max(len(row) for row, *_rest in bars)
    assert {len(line) for line in drawn} == {label + 3 + max(MIN_BARS, width - label - 3)}
    assert len(drawn) >= len({row for row, *_rest in bars})
    for step in {step for _row, step, _start, _end in bars}:
        assert f" {step}" in "\n".join(lines)
