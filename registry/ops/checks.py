"""Checks of input that several subjects share; each raises InvalidError naming the field."""

import re

from registry.errors import InvalidError
from registry.ids import now_ms

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,119}")
MAX_AMOUNT = 10**18  # nano-dollars: a thousand million dollars; a sum of nine still fits a signed 64-bit integer

END_OF_TIME_MS = 253_370_764_800_000  # 9999-01-01 UTC: Python's calendar ends a year later


def text(field: str, value: object, *, limit: int = 120) -> str:
    """`value` without surrounding blanks: 1 to `limit` printable characters."""
    if not isinstance(value, str):
        raise InvalidError(f"{field} must be text", field)
    cleaned = value.strip()
    if not cleaned or len(cleaned) > limit or not cleaned.isprintable():
        raise InvalidError(f"{field} must be 1 to {limit} printable characters", field)
    return cleaned


def model_name(field: str, value: object) -> str:
    """A name that a client can send as `model`: letters, digits and . _ : / @ + -, at most 120 characters."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidError(
            f"{field} must start with a letter or digit and hold only letters, digits and . _ : / @ + - (at most 120)",
            field,
        )
    return value


def integer(field: str, value: object, *, low: int = 0, high: int = MAX_AMOUNT) -> int:
    """`value`, if it is an integer (bool is not) from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidError(f"{field} must be a whole number from {low} to {high}", field)
    return value


def moment(field: str, value: object) -> int:
    """A time in milliseconds since the epoch, that every calendar and clock after us can show."""
    if not isinstance(value, bool) and isinstance(value, int) and value >= END_OF_TIME_MS:
        raise InvalidError(f"{field} must lie before the year 9999; choose an earlier time", field)
    return integer(field, value)


def end(field: str, value: object) -> int | None:
    """When something ends, in milliseconds since the epoch: None (never), or a moment that is still to come."""
    if value is None:
        return None
    at_ms = moment(field, value)
    if at_ms <= now_ms():
        raise InvalidError(f"{field} must lie in the future", field)
    return at_ms


def flag(field: str, value: object) -> bool:
    """`value`, if it is true or false."""
    if not isinstance(value, bool):
        raise InvalidError(f"{field} must be true or false", field)
    return value


def limit(field: str, value: object) -> int | None:
    """A rate or parallelism limit: None (unlimited) or at least 1."""
    return None if value is None else integer(field, value, low=1)
