"""Pure parts: how numbers look, where chart columns and waterfall bars lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_ui import formats
from admin_ui.charts import HEIGHT, LEFT, WIDTH, bar_chart, round_up
from admin_ui.read.waterfall import draw
from registry.ops.coldstarts import WaterfallRow
from registry.ops.money import parse_dollars


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "$0.00"), (1, "$0.000000001"), (-5_000_000_000, "-$5.00"), (1_234_567_890_000_000_000, "$1,234,567,890.00"),
     (20, "$0.00000002"), (1_500_000_000, "$1.50")],
)  # fmt: skip
def test_dollars(amount: int, text: str) -> None:
    assert formats.dollars(amount) == text


@given(st.integers(-(10**18), 10**18))
def test_dollars_lose_nothing(amount: int) -> None:
    assert parse_dollars(formats.dollars(amount).replace("$", "").replace(",", "")) == amount


@pytest.mark.parametrize(("price", "text"), [(20, "$0.02"), (1, "$0.001"), (0, "$0.00"), (15_000, "$15.00")])
def test_per_million(price: int, text: str) -> None:
    assert formats.per_million(price) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (270_000_000, "270 MB"), (16_060_000_000, "16.1 GB"),
     (2_500_000_000_000, "2.5 TB")],
)  # fmt: skip
def test_size(count: int, text: str) -> None:
    assert formats.size(count) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(50_000_000, "400 Mbit/s"), (1_250_000_000, "10 Gbit/s"), (12_500_000_000, "100 Gbit/s")]
)
def test_link_rate(rate: int, text: str) -> None:
    assert formats.link_rate(rate) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0 ms"), (999, "999 ms"), (4_520, "4.52 s"), (45_200, "45.2 s"), (300_000, "5 min"),
     (61_000, "1 min 1 s"), (7_260_000, "2 h 1 min"), (86_400_000 * 3, "3 days"), (-40, "-40 ms")],
)  # fmt: skip
def test_duration(value: int | None, text: str) -> None:
    assert formats.duration(value) == text


def test_when_there_is_no_time() -> None:
    assert "never" in formats.when(None)


@given(st.integers(0, 10**15))
def test_an_axis_ends_at_the_next_round_number(value: int) -> None:
    top = round_up(value)
    assert top >= value
    assert str(top).rstrip("0") in ("1", "2", "5")
    assert top <= max(1, value * 2.5)


@given(st.lists(st.integers(0, 10**12), max_size=400))
def test_columns_stay_inside_the_chart(values: list[int]) -> None:
    chart = bar_chart([(str(i), str(i), value) for i, value in enumerate(values)])
    assert len(chart.columns) == len(values)
    assert sum(column.show_label for column in chart.columns) <= 8
    for column in chart.columns:
        assert column.x >= LEFT
        assert column.x + column.width <= WIDTH + 1
        # "14:00" in a phone's letters is 56 units wide.
        assert not column.show_label or column.middle + 28 <= WIDTH
        assert 0 <= column.y <= column.y + column.height <= HEIGHT


@given(
    st.lists(st.tuples(st.integers(-50, 10**7), st.none() | st.integers(0, 10**7)), max_size=30),
    st.none() | st.integers(0, 10**7),
    st.integers(0, 10**8),
)
def test_a_waterfall_stays_inside_its_frame(
    spans: list[tuple[int, int | None]], predicted: int | None, now: int
) -> None:
    rows = [
        WaterfallRow("s", "rank 0", "prefetch", start, None if length is None else start + length)
        for start, length in spans
    ]
    drawing = draw(rows, predicted, now)
    assert [line.title for line in drawing.lines] == (["rank 0"] + [None] * (len(rows) - 1) if rows else [])
    for line in drawing.lines:
        assert 0 <= line.x <= 100
        assert line.width >= 0
        assert line.x + line.width <= 101
    assert 0 < len(drawing.marks) <= 10
    assert predicted is None or 0 <= (drawing.predicted_x or 0) <= 100


def test_a_stop_long_after_the_start_does_not_squeeze_it() -> None:
    rows = [WaterfallRow("s", "rank 0", "prefetch", 0, 2_300), WaterfallRow("", "group", "stopped", 209_000, 209_000)]
    drawing = draw(rows, None, 10**7)
    assert [(line.label, line.width > 90) for line in drawing.lines] == [("fetching weights", True)]
    assert drawing.stopped_ms == 209_000
