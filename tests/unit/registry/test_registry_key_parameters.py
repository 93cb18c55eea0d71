"""Defaults and ceilings of a key, as people type them and as they are kept."""

from __future__ import annotations

from typing import Any

import pytest

from registry.errors import InvalidError
from registry.key_parameters import checked_ceilings, checked_defaults, parse_assignments


def test_lines_become_values() -> None:
    lines = [" temperature = 0.2", "", "max_tokens=512", "reasoning_effort = low"]
    assert parse_assignments(lines, "defaults") == {"temperature": 0.2, "max_tokens": 512, "reasoning_effort": "low"}


@pytest.mark.parametrize(
    ("lines", "words"), [(["temperature"], "name=value"), (["=1"], "name=value"), (["n=1", "n=2"], "twice")]
)
def test_other_lines_are_refused_by_field(lines: list[str], words: str) -> None:
    with pytest.raises(InvalidError, match=words) as caught:
        parse_assignments(lines, "ceilings")
    assert caught.value.field == "ceilings"


@pytest.mark.parametrize("values", [
    {"temperature": 3}, {"temperature": "hot"}, {"temperature": True}, {"temperature": float("nan")}, {"n": 1.5},
    {"max_tokens": 0}, {"reasoning_effort": "most"}, {"tools": []}, {"model": "x"}, {"seed": [1]}, {"seed": {}},
])  # fmt: skip
def test_what_a_parameter_does_not_take_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match=next(iter(values))):
        checked_defaults(values)


def test_only_what_costs_or_risks_more_can_have_a_ceiling() -> None:
    assert checked_ceilings({"max_tokens": 5, "n": 1, "temperature": 1.0, "top_p": 0.5})
    with pytest.raises(InvalidError, match="seed"):
        checked_ceilings({"seed": 5})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_tokens": 0}, "a whole number from 1 to 10000000$"),
        ({"seed": -1}, "a whole number from 0 to 9007199254740992$"),
        ({"temperature": 3}, "a number from 0 to 2$"),
    ],
)
def test_bounds_are_told_digit_by_digit(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        checked_defaults(values)
