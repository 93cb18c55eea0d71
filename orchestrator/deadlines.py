"""The ledger of a node's link, which belongs to the fetch with the earliest deadline; what that one cannot use goes on.

The model is a fluid: everything that is due by an instant has moved when the link has carried all of it, so fetches are
in time if for each of them all bytes that are due no later fit in before its deadline. No other way of sharing a link
keeps deadlines that this one misses (Liu and Layland 1973, for one processor). A fetch may go in its turn if that makes
neither itself nor one that is on time late; else it goes behind all, with a deadline that it will keep. One that is
late in spite of this (its link was slower than told) is ahead of all, since its deadline is the earliest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.types import Fetch

SLACK = 2
"""A fetch that goes behind all may take this many times its predicted duration."""
BACKGROUND_SLACK = 4
"""One that nobody waits for (a consolidation) may take this many times its predicted duration."""


@dataclass(frozen=True, slots=True)
class Turn:
    """When a fetch would end on a link, from now, and the deadline by which it gets its turn (ms since the epoch)."""

    fetch_ms: int
    deadline_ms: int


def turn(link_bps: int, fetches: Sequence[Fetch], size_bytes: int, now_ms: int, deadline_ms: int) -> Turn | None:
    """The turn of `size_bytes` more that are wanted by `deadline_ms`; None over a link that is down (0 bytes/s)."""
    if size_bytes == 0:
        return Turn(0, deadline_ms)
    if link_bps == 0:
        return None
    fetch_ms = _ms(_due(fetches, deadline_ms) + size_bytes, link_bps)
    if now_ms + fetch_ms <= deadline_ms and not any(
        fetch.deadline_ms > deadline_ms and _made_late(link_bps, fetches, fetch, size_bytes, now_ms)
        for fetch in fetches
    ):
        return Turn(fetch_ms, deadline_ms)
    return last(link_bps, fetches, size_bytes, now_ms, SLACK)


def last(link_bps: int, fetches: Sequence[Fetch], size_bytes: int, now_ms: int, slack: int) -> Turn | None:
    """The turn of `size_bytes` more behind all others, with `slack` times its predicted duration as its deadline."""
    if size_bytes == 0:
        return Turn(0, now_ms)
    if link_bps == 0:
        return None
    fetch_ms = _ms(sum(fetch.remaining_bytes for fetch in fetches) + size_bytes, link_bps)
    latest = max((fetch.deadline_ms for fetch in fetches), default=0)
    return Turn(fetch_ms, max(now_ms + slack * fetch_ms, latest))


def finish_ms(link_bps: int, fetches: Sequence[Fetch]) -> dict[str, int]:
    """Milliseconds from now until each fetch ends, by key; of equal deadlines the first in `fetches` goes first.

    ValueError when the link is down.
    """
    if link_bps == 0 and any(fetch.remaining_bytes for fetch in fetches):
        raise ValueError("link_bps: a link of 0 bytes per second never finishes a fetch")
    ends, moved = {}, 0
    for fetch in sorted(fetches, key=lambda fetch: fetch.deadline_ms):
        moved += fetch.remaining_bytes
        ends[fetch.key] = _ms(moved, link_bps or 1) if fetch.remaining_bytes else 0
    return ends


def late(link_bps: int, fetches: Sequence[Fetch], now_ms: int) -> frozenset[str]:
    """Keys of the fetches that miss their deadline even if nothing is added."""
    ends = finish_ms(link_bps, fetches)
    return frozenset(
        fetch.key for fetch in fetches if fetch.remaining_bytes and now_ms + ends[fetch.key] > fetch.deadline_ms
    )


def _made_late(link_bps: int, fetches: Sequence[Fetch], one: Fetch, size_bytes: int, now_ms: int) -> bool:
    """Whether `size_bytes` ahead of `one` make it late, which it is not without them."""
    if not one.remaining_bytes:
        return False
    due = _due(fetches, one.deadline_ms)
    in_time_ms = one.deadline_ms - now_ms
    return _ms(due, link_bps) <= in_time_ms < _ms(due + size_bytes, link_bps)


def _due(fetches: Sequence[Fetch], deadline_ms: int) -> int:
    """Bytes that are due no later than `deadline_ms`."""
    return sum(fetch.remaining_bytes for fetch in fetches if fetch.deadline_ms <= deadline_ms)


def _ms(size_bytes: int, link_bps: int) -> int:
    return -(-size_bytes * 1000 // link_bps)
