"""Months of the calendar, in UTC, by names such as 2026-11. Pure."""

import re
from datetime import UTC, datetime

from registry.errors import InvalidError

_NAME = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])")


def month_of(at_ms: int) -> str:
    """The month in which a moment (ms since the epoch) lies."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m")


def borders_ms(month: str) -> tuple[int, int]:
    """First moment of the month and of the next one. Raises InvalidError for what is no month of this century."""
    found = _NAME.fullmatch(month)
    if found is None:
        raise InvalidError(f"{month!r} is no month; write it as 2026-11", "month")
    year, number = int(found[1]), int(found[2])
    begin = datetime(year, number, 1, tzinfo=UTC)
    end = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return int(begin.timestamp() * 1000), int(end.timestamp() * 1000)


def next_month(month: str) -> str:
    """The month after."""
    return month_of(borders_ms(month)[1])
