"""The reader's time zone, which the page's script leaves in a cookie, and the calendar in it."""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from urllib.parse import unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flask import request

COOKIE = "hydrant_zone"


def readers_zone() -> tuple[tzinfo, str]:
    """The zone and its name; UTC when the browser named none, or one that this machine does not know."""
    return zone_named(unquote(request.cookies.get(COOKIE, "")))


def zone_named(name: str) -> tuple[tzinfo, str]:
    """The zone of that name, and the name; UTC when there is no such zone."""
    try:
        return (ZoneInfo(name), name) if name else (UTC, "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC, "UTC"


def day_start_ms(day: date, zone: tzinfo) -> int:
    """Midnight at which `day` begins in `zone`, in milliseconds since the epoch."""
    return int(datetime.combine(day, time(), zone).timestamp() * 1000)


def day_of(at_ms: int, zone: tzinfo) -> date:
    """The calendar day of an instant in `zone`."""
    return datetime.fromtimestamp(at_ms / 1000, zone).date()


def days_between(first: date, last: date) -> list[date]:
    """Every day from `first` to `last`, both included."""
    return [first + timedelta(days=i) for i in range((last - first).days + 1)]
