"""An invoice's lines as a person reads them. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

_SUMMED = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "amount_nusd")


def lines_to_read(usage: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines of usage, those that look alike summed: their prices differ in the GPU-second alone, by which no token
    is charged."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in usage:
        price = line["price"]
        same = found.setdefault(
            (line["model"], *sorted((price or {}).items())), dict(line, **dict.fromkeys(_SUMMED, 0))
        )
        for name in _SUMMED:
            same[name] += line[name]
    return list(found.values())
