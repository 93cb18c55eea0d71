"""How numbers, times and money look to a person. Pure; registered as Jinja filters by the app."""

from datetime import UTC, datetime

from markupsafe import Markup

from registry.ops.money import format_dollars, format_price_per_million

_KB = 1000


def dollars(amount_nusd: int) -> str:
    """Integer nano-dollars as exact dollars: at least two decimals, at most nine, never rounded."""
    whole, decimals = format_dollars(abs(amount_nusd)).split(".")
    return f"{'-' if amount_nusd < 0 else ''}${int(whole):,}.{decimals}"


def per_million(nusd_per_token: int) -> str:
    """A price in nano-dollars per token as exact dollars per million tokens."""
    return "$" + format_price_per_million(nusd_per_token)


def size(count: int) -> str:
    """Bytes with a decimal unit (GB = 1e9 bytes), three significant digits."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < _KB:
            return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= _KB
    return f"{value:,.3g} TB" if value < _KB else f"{value:,.0f} TB"


def sentence(message: str) -> str:
    """An error's message as a sentence: with a capital, and a full stop."""
    text = message[:1].upper() + message[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def link_rate(bytes_per_second: int) -> str:
    """A link's rate in bits per second, as networks are named (50,000,000 B/s is 400 Mbit/s)."""
    value = bytes_per_second * 8.0
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if value < _KB:
            return f"{value:.3g} {unit}"
        value /= _KB
    return f"{value:,.4g} Gbit/s"


def duration(milliseconds: int | None) -> str:
    """Milliseconds with the unit that suits their size; a dash for None."""
    if milliseconds is None:
        return "–"
    if abs(milliseconds) < 1000:
        return f"{milliseconds} ms"
    seconds = milliseconds / 1000
    if abs(seconds) < 60:
        return f"{seconds:.2f} s" if abs(seconds) < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days"


def gpu_seconds(time_us: int | None) -> str:
    """GPU-microseconds as seconds of a whole device; a dash for None."""
    return "–" if time_us is None else f"{time_us / 1_000_000:,.3f} GPU s"


def number(value: int | None) -> str:
    """An integer with thousands separators; a dash for None."""
    return "–" if value is None else f"{value:,}"


def compact(value: int) -> str:
    """A round axis value in few characters: 20000 is 20k."""
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return str(value)


def limit(value: int | None) -> str:
    """A limit; None means that there is none."""
    return "unlimited" if value is None else f"{value:,}"


def utc(at_ms: int) -> str:
    """An instant as `2026-11-24 03:19:20 UTC`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def when(at_ms: int | None) -> Markup:
    """An instant as a `<time>`: UTC until the page's script shows it in the browser's zone; UTC stays in the title."""
    if not at_ms:
        return Markup('<span class="faint">never</span>')
    iso = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(iso, utc(at_ms), utc(at_ms))


FILTERS = {
    "dollars": dollars,
    "per_million": per_million,
    "size": size,
    "link_rate": link_rate,
    "duration": duration,
    "gpu_seconds": gpu_seconds,
    "number": number,
    "compact": compact,
    "limit": limit,
    "utc": utc,
    "when": when,
}
