"""Sizes, rates and times as people write and read them."""

import re
from datetime import UTC, datetime

from registry.errors import InvalidError

_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


def size(value: int) -> str:
    """Bytes as GB (1e9 bytes) or MB (1e6 bytes)."""
    return f"{value / 1e9:.2f} GB" if value >= 10**9 else f"{value / 1e6:.1f} MB"


def rate(value_bps: int) -> str:
    """Bytes per second as Gbit/s, the unit in which links are sold."""
    return f"{value_bps * 8 / 1e9:.2f} Gbit/s"


def seconds(value_ms: int | None) -> str | None:
    """Milliseconds as seconds; None stays None."""
    return None if value_ms is None else f"{value_ms / 1000:.2f} s"


def gpu_seconds(time_us: int | None) -> str | None:
    """GPU-microseconds as seconds of a whole device; None stays None."""
    return None if time_us is None else f"{time_us / 1e6:.3f} GPU s"


def moment(at_ms: int | None) -> str | None:
    """An instant, UTC; None stays None."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def parse_duration_ms(text: str, field: str) -> int:
    """Milliseconds in "90s", "15m", "24h", "7d" or "2w". Raises InvalidError."""
    match = _AGO.fullmatch(text.strip())
    if match is None:
        raise InvalidError(f"{field} must be a duration such as 90s, 15m, 24h, 7d or 2w", field)
    return int(match[1]) * _UNIT_MS[match[2]]


def parse_moment_ms(text: str, field: str, now_ms: int) -> int:
    """An instant: "2026-11-24", "2026-11-24T10:00" (UTC unless an offset is given), or a duration ago such as "24h".

    Raises InvalidError.
    """
    if _AGO.fullmatch(text.strip()):
        return now_ms - parse_duration_ms(text, field)
    try:
        parsed = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidError(
            f"{field} must be a date or time such as 2026-11-24 or 2026-11-24T10:00 (UTC), or 24h or 7d for ago", field
        ) from None
    aware = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
