"""Which byte ranges to read: neighbours in a file become one read, in (about) load order. Pure.

A reader wants tensors in load order, a file has them in its own order (often by name). Tensors are therefore taken in
load order into windows, and inside a window neighbouring tensors of a file are read as one. Only tensors that touch are
joined, so the bytes read are exactly the tensors' bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WINDOW_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes `[begin, end)` of `file`, wanted as item number `item`."""

    item: int
    file: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Range:
    """One contiguous read; `parts` are the wanted items in it, in file order, without gaps."""

    file: str
    begin: int
    end: int
    parts: tuple[Wanted, ...]


def coalesce(wanted: Sequence[Wanted], window_bytes: int = WINDOW_BYTES) -> list[Range]:
    """Join touching items. The items must be disjoint; empty ones are left out.

    An item is read at most `window_bytes` plus one item's size before its turn.
    """
    ranges: list[Range] = []
    window: list[Wanted] = []
    size = 0
    for item in wanted:
        if item.begin == item.end:
            continue
        window.append(item)
        size += item.end - item.begin
        if size >= window_bytes:
            ranges += _joined(window)
            window, size = [], 0
    return ranges + _joined(window)


def _joined(window: list[Wanted]) -> list[Range]:
    runs: list[list[Wanted]] = []
    for item in sorted(window, key=lambda wanted: (wanted.file, wanted.begin)):
        if runs and runs[-1][-1].file == item.file and runs[-1][-1].end == item.begin:
            runs[-1].append(item)
        else:
            runs.append([item])
    order = {item.item: place for place, item in enumerate(window)}
    runs.sort(key=lambda run: min(order[item.item] for item in run))
    return [Range(run[0].file, run[0].begin, run[-1].end, tuple(run)) for run in runs]


def overlap(parts: Sequence[Wanted], begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Which items the file bytes `[begin, end)` belong to: (item, from, to) with offsets inside the item."""
    for part in parts:
        low, high = max(part.begin, begin), min(part.end, end)
        if low < high:
            yield part.item, low - part.begin, high - part.begin
