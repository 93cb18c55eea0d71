"""What people type and read: sizes, rates, times, limits."""

import click
import pytest

from cli.console import fields, table
from cli.params import DOLLARS, GIGABITS, GIGABYTES, LIMIT, NONE, PRICE, or_none
from cli.units import moment, parse_duration_ms, parse_moment_ms, rate, seconds, size
from registry.errors import InvalidError

NOW = 1_795_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-02", 86_400_000),
        ("1970-01-01T00:00:01", 1000),
        ("1970-01-01T02:00:00+02:00", 0),
        ("24h", NOW - 86_400_000),
        (" 7d ", NOW - 7 * 86_400_000),
        ("2w", NOW - 14 * 86_400_000),
    ],
)
def test_moments_are_dates_or_so_long_ago(text: str, expected: int) -> None:
    assert parse_moment_ms(text, "since", NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "24", "-1h", "1.5h", "2026-13-01", "9999999h"])
def test_a_moment_that_is_none_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidError, match="since must be a date") as caught:
        parse_moment_ms(text, "since", NOW)
    assert caught.value.field == "since"


def test_durations_have_a_unit() -> None:
    assert parse_duration_ms("90s", "overlap") == 90_000
    with pytest.raises(InvalidError, match="such as 90s"):
        parse_duration_ms("90", "overlap")


def test_numbers_are_shown_in_the_units_of_the_field() -> None:
    assert size(269_030_016) == "269.0 MB"
    assert size(13_000_000_000) == "13.00 GB"
    assert rate(125_000_000) == "1.00 Gbit/s"
    assert seconds(1234) == "1.23 s"
    assert seconds(None) is None
    assert moment(0) == "1970-01-01 00:00:00"
    assert moment(None) is None


def test_options_convert_to_the_units_of_the_registry() -> None:
    assert PRICE.convert("0.02", None, None) == 20
    assert DOLLARS.convert("-2.5", None, None) == -2_500_000_000
    assert GIGABYTES.convert("1.5", None, None) == 1_500_000_000
    assert GIGABITS.convert("0.8", None, None) == 100_000_000
    assert or_none(LIMIT.convert("none", None, None)) is None
    assert or_none(LIMIT.convert("60", None, None)) == 60
    assert LIMIT.convert("NONE", None, None) == NONE


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (PRICE, "0.0000001"),
        (PRICE, "-1"),
        (PRICE, "cheap"),
        (DOLLARS, "NaN"),
        (DOLLARS, "1e400"),
        (GIGABYTES, "0"),
        (GIGABYTES, "-4"),
        (GIGABYTES, "inf"),
        (GIGABITS, "nan"),
        (LIMIT, "0"),
        (LIMIT, "-3"),
        (LIMIT, "1.5"),
        (LIMIT, "²"),
    ],
)
def test_a_bad_value_is_a_usage_error(kind: "click.ParamType", text: str) -> None:
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)


def test_money_is_aligned_at_its_point() -> None:
    rows = [("a", "$20.00", 1), ("b", "-$3.000002", 2), ("c", None, 3)]
    assert table(("", "COST", "N"), rows, right="0.1") == [
        "         COST  N",
        "a  $20.00      1",
        "b  -$3.000002  2",
        "c    -         3",
    ]


def test_tables_align_and_a_line_break_in_a_value_breaks_nothing() -> None:
    lines = table(("NAME", "N"), [("a\nb", 5), (None, 12345), (True, "x")], right="01")
    assert lines == ["NAME      N", "a b       5", "-     12345", "yes       x"]
    assert fields([("long name", 1), ("x", "")]) == ["long name  1", "x"]
