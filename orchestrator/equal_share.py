"""The ledger of a link that is shared equally, as the published systems' are: how long a fetch takes beside the others,
and whether it may start. (Ours belong to the fetch with the earliest deadline: see deadlines.py.)

The model is a fluid: all fetches of a node share its link equally, and when one ends the others speed up at once. Then
everything moved when a fetch of R remaining bytes ends is the sum over all fetches of min(remaining, R), which gives
finish times in closed form. A fetch may start only if every fetch that is on time stays on time; one that is late
already cannot be saved by refusing others, so it no longer blocks its node, though it keeps its equal share.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.deadlines import BACKGROUND_SLACK, SLACK, Turn
from orchestrator.types import Fetch


@dataclass(frozen=True, slots=True)
class Admission:
    """May a fetch start, and what would become of it.

    admitted        whether it may start now.
    fetch_ms        its predicted duration beside the fetches running now; 0 on a link that is down.
    rate_bps        its equal share when it starts.
    harmed          key of the fetch that would miss its deadline because of it.
    retry_after_ms  when that fetch will be done; None when waiting does not help (the link is down) or is not needed.
    """

    admitted: bool
    fetch_ms: int
    rate_bps: int
    harmed: str | None = None
    retry_after_ms: int | None = None


def assess(link_bps: int, fetches: Sequence[Fetch], size_bytes: int, now_ms: int) -> Admission:
    """Whether `size_bytes` more may be fetched over this link now.

    Nothing to fetch is always admitted; a link of 0 B/s admits nothing else. Whether the newcomer itself is in time,
    the caller judges by `fetch_ms`.
    """
    if size_bytes == 0:
        return Admission(True, 0, 0)
    if link_bps == 0:
        return Admission(False, 0, 0)
    active = [fetch for fetch in fetches if fetch.remaining_bytes > 0]
    rate = link_bps // (len(active) + 1)
    duration = _beside_ms(link_bps, active, size_bytes)
    for fetch in active:
        alone = _moved_until(fetch, active)
        budget = (fetch.deadline_ms - now_ms) * link_bps
        if alone * 1000 <= budget < (alone + min(size_bytes, fetch.remaining_bytes)) * 1000:
            return Admission(False, duration, rate, fetch.key, _ms(alone, link_bps))
    return Admission(True, duration, rate)


def finish_ms(link_bps: int, fetches: Sequence[Fetch]) -> dict[str, int]:
    """Milliseconds from now until each fetch ends if nothing is added, by key; ValueError when the link is down."""
    if link_bps == 0 and any(fetch.remaining_bytes for fetch in fetches):
        raise ValueError("link_bps: a link of 0 bytes per second never finishes a fetch")
    return {fetch.key: _ms(_moved_until(fetch, fetches), link_bps or 1) for fetch in fetches}


def late(link_bps: int, fetches: Sequence[Fetch], now_ms: int) -> tuple[str, ...]:
    """Keys of the fetches that will miss their deadline even if nothing is added."""
    return tuple(
        fetch.key
        for fetch in fetches
        if fetch.remaining_bytes and _moved_until(fetch, fetches) * 1000 > (fetch.deadline_ms - now_ms) * link_bps
    )


def turn(link_bps: int, fetches: Sequence[Fetch], size_bytes: int, now_ms: int, deadline_ms: int) -> Turn | None:
    """As `deadlines.turn`; None also where it may not start now."""
    admission = assess(link_bps, fetches, size_bytes, now_ms)
    if not admission.admitted:
        return None
    in_time = now_ms + admission.fetch_ms <= deadline_ms
    return Turn(admission.fetch_ms, deadline_ms if in_time else now_ms + SLACK * admission.fetch_ms)


def background_deadline_ms(link_bps: int, fetches: Sequence[Fetch], size_bytes: int, now_ms: int) -> int | None:
    """The deadline of a fetch that nobody waits for: BACKGROUND_SLACK times its predicted duration.

    None when it may not start.
    """
    admission = assess(link_bps, fetches, size_bytes, now_ms)
    return now_ms + BACKGROUND_SLACK * admission.fetch_ms if admission.admitted else None


def _beside_ms(link_bps: int, fetches: Sequence[Fetch], size_bytes: int) -> int:
    """How long `size_bytes` more take beside these fetches."""
    return _ms(size_bytes + sum(min(fetch.remaining_bytes, size_bytes) for fetch in fetches), link_bps)


def _moved_until(fetch: Fetch, fetches: Sequence[Fetch]) -> int:
    """Bytes that all of `fetches` together have moved when `fetch` ends."""
    return sum(min(other.remaining_bytes, fetch.remaining_bytes) for other in fetches)


def _ms(size_bytes: int, link_bps: int) -> int:
    return -(-size_bytes * 1000 // link_bps)
