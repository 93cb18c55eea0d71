"""The windows in which budgets are spent, in UTC, numbered as `gateway/accounting/lua/admit.lua` numbers them.

A day's number is days since the epoch, a month's is months since year 0; what is budgeted in total has one window, 0.
"""

from datetime import UTC, datetime
from typing import Final

PERIODS: Final = ("day", "month", "total")
_DAY_MS = 86_400_000


def window_at(period: str, at_ms: int) -> int:
    """The number of the window in which `at_ms` (milliseconds since the epoch) lies."""
    if period == "day":
        return at_ms // _DAY_MS
    if period == "month":
        moment = datetime.fromtimestamp(at_ms / 1000, UTC)
        return moment.year * 12 + moment.month - 1
    return 0


def bounds_ms(period: str, window: int) -> tuple[int, int | None]:
    """From when (inclusive) until when (exclusive; None: for ever) a window lasts, in milliseconds since the epoch."""
    if period == "day":
        return window * _DAY_MS, (window + 1) * _DAY_MS
    if period == "month":
        return _month_ms(window), _month_ms(window + 1)
    return 0, None


def field(scope_id: str, period: str, window: int) -> str:
    """The field of `hyd:budget:spent` and `hyd:budget:reserved` for one budget's window."""
    return f"{scope_id}:{period}:{window}"


def is_over(name: str, at_ms: int) -> bool:
    """Whether the window of a field has ended before `at_ms`."""
    _, period, window = name.rsplit(":", 2)
    return int(window) < window_at(period, at_ms)


def _month_ms(number: int) -> int:
    year, month = divmod(number, 12)
    return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp()) * 1000
