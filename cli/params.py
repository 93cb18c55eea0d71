"""Kinds of values on the command line: money, prices, sizes, times, and limits that can be lifted."""

from typing import Any, Final

import click

from cli.units import parse_duration_ms, parse_moment_ms
from registry.errors import InvalidError
from registry.ids import now_ms


class _Checked(click.ParamType[Any]):
    """A value that a function of the registry or of `cli.units` checks: what it refuses is a usage error."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        field = param.name if param is not None and param.name else self.name
        try:
            return self.parse(value, field)
        except InvalidError as error:
            self.fail(error.message, param, ctx)

    def parse(self, text: str, field: str) -> Any:
        """The value in `text`. Raises InvalidError."""
        raise InvalidError(f"{field}: {text!r} is not possible", field)


class _Dollars(_Checked):
    name = "dollars"

    def parse(self, text: str, field: str) -> int:
        from registry.ops.money import parse_dollars

        return parse_dollars(text, field)


class _PricePerMillion(_Checked):
    name = "dollars per million tokens"

    def parse(self, text: str, field: str) -> int:
        from registry.ops.money import parse_price_per_million

        return parse_price_per_million(text, field)


class _Moment(_Checked):
    name = "time"

    def parse(self, text: str, field: str) -> int:
        return parse_moment_ms(text, field, now_ms())


class _Duration(_Checked):
    name = "duration"

    def parse(self, text: str, field: str) -> int:
        return parse_duration_ms(text, field)


class _Gigabytes(_Checked):
    name = "GB"

    def parse(self, text: str, field: str) -> int:
        return round(_decimal(text, field) * 1e9)


class _GigabitsPerSecond(_Checked):
    name = "Gbit/s"

    def parse(self, text: str, field: str) -> int:
        return round(_decimal(text, field) * 1e9 / 8)


class _Limit(_Checked):
    name = "number|none"

    def parse(self, text: str, field: str) -> int | str:
        if text.strip().lower() == NONE:
            return NONE
        if not text.strip().isdecimal() or int(text) < 1:
            raise InvalidError(f"{field} must be a whole number from 1, or none to lift the limit", field)
        return int(text)


def _decimal(text: str, field: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1e9:
        raise InvalidError(f"{field} must be a positive number", field)
    return number


NONE: Final = "none"
"""What a person writes to take a limit or a parser away."""
DOLLARS: Final = _Dollars()
"""An amount, converted to nano-dollars."""
PRICE: Final = _PricePerMillion()
"""Dollars per million tokens, converted to nano-dollars per token."""
MOMENT: Final = _Moment()
"""An instant, converted to milliseconds since the epoch; a duration means so long ago."""
DURATION: Final = _Duration()
"""A length of time, converted to milliseconds."""
GIGABYTES: Final = _Gigabytes()
"""GB (1e9 bytes), converted to bytes."""
GIGABITS: Final = _GigabitsPerSecond()
"""Gbit/s, converted to bytes per second."""
LIMIT: Final = _Limit()
"""A whole number from 1, or NONE."""


def or_none(value: int | str) -> int | None:
    """What the registry is told for a LIMIT or a choice that may be NONE."""
    return None if value == NONE else int(value)
