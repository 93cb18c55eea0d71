"""Money is exact: no float, no rounding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidError
from registry.ops.money import (
    format_dollars,
    format_price_per_million,
    more_than_nothing,
    parse_dollars,
    parse_price_per_million,
    usd,
)
from registry.ops.prices import check_amount


@pytest.mark.parametrize(
    ("text", "nusd"),
    [
        ("12.50", 12_500_000_000),
        ("$12.5", 12_500_000_000),
        ("0.000000001", 1),
        ("-3", -3_000_000_000),
        ("1_000", 1_000_000_000_000),
        ("0.1", 100_000_000),
        (" 7 ", 7_000_000_000),
    ],
)
def test_dollars_become_nano_dollars_exactly(text: str, nusd: int) -> None:
    assert parse_dollars(text) == nusd


@pytest.mark.parametrize("text", ["", "abc", "1,5", "NaN", "Infinity", "1e30", "0.0000000001", "1.2.3", "--1", "0x10"])
def test_what_is_no_exact_amount_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_dollars(text, "budget")
    assert caught.value.field == "budget"
    assert "budget" in caught.value.message


@given(st.integers(-(10**18), 10**18))
def test_formatting_and_parsing_are_inverse(nusd: int) -> None:
    text = format_dollars(nusd)
    assert "e" not in text.lower()
    assert parse_dollars(text) == nusd


def test_dollars_show_cents_and_no_more_digits_than_needed() -> None:
    assert [format_dollars(value) for value in (0, 1, -20, 1_500_000_000, -12_340_000_000)] == [
        "0.00",
        "0.000000001",
        "-0.00000002",
        "1.50",
        "-12.34",
    ]


def test_prices_are_given_per_million_tokens() -> None:
    assert parse_price_per_million("0.02") == 20
    assert format_price_per_million(20) == "0.02"
    with pytest.raises(InvalidError, match="multiple"):
        parse_price_per_million("0.0001")
    with pytest.raises(InvalidError, match="negative"):
        parse_price_per_million("-1")


def test_people_read_dollars_with_their_sign() -> None:
    assert [usd(value) for value in (0, 20_000_000_000, -3_100_000_000, 1)] == [
        "$0.00",
        "$20.00",
        "-$3.10",
        "$0.000000001",
    ]


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (0, "more than $0.00"),
        (-1, "more than $0.00"),
        (10**18 + 1, "at most $1000000000.00"),
        (True, "a whole number of nano-dollars"),
        (1.5, "a whole number of nano-dollars"),
    ],
)
def test_bounds_of_an_amount_are_told_in_dollars(amount: object, words: str) -> None:
    with pytest.raises(InvalidError) as caught:
        more_than_nothing("amount", amount)
    assert caught.value.message == f"amount must be {words}"
    assert more_than_nothing("amount", 10**18) == 10**18


@pytest.mark.parametrize(("field", "most"), [("gpu_second_nusd", "$10.00"), ("request_nusd", "$1000.00")])
def test_bounds_of_a_price_are_told_in_dollars(field: str, most: str) -> None:
    for amount in (-1, 10**13):
        with pytest.raises(InvalidError) as caught:
            check_amount(field, amount)
        assert caught.value.message == f"{field} must be from $0.00 to {most}"


@pytest.mark.parametrize(("text", "bound"), [("2e9", "at most $1000000000.00"), ("-2e9", "at least -$1000000000.00")])
def test_dollars_beyond_every_amount_are_told_the_bound(text: str, bound: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_dollars(text)
    assert caught.value.message == f"amount must be {bound}"
