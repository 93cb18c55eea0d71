"""Holding a fetch to its rate: a token bucket over a virtual credit line, and its asyncio face.

Bytes are paid for before they are asked for, so the wire carries no more than was paid. Credit that is not used (the
source was slower than the rate) is kept for BURST_S only, which bounds how far a fetch may catch up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

BURST_S = 0.1
_PIECE_S = 0.05
_PIECE_LEAST = 64 * 1024
_PIECE_MOST = 4 * 1024 * 1024
_IN_FLIGHT_S = 0.2
_READS_LEAST = 4
_READS_MOST = 16
_BACKGROUND_S = 0.01
"""How long a background fetch may keep its link busy at a time. Queues before a link are a few times as long: what
several reads of a usual size have under way fills them, and the messages between the ranks of a pipeline on this node
are dropped, each 0.2 s late then (TCP's least wait before it sends again)."""


class TokenBucket:
    """Pure token bucket. Times are seconds of any monotonic clock, rates bytes per second, None for unlimited.

    `credit` is what may have been sent up to now and `taken` what has been asked for, both counted from the start, so a
    ticket (the value of `taken` after a take) is served as soon as `credit` reaches it: first come, first served, and
    a change of rate applies to those who already wait.
    """

    def __init__(self, rate_bps: int | None, now: float) -> None:
        self._rate = checked_rate(rate_bps)
        self._at = now
        self._credit = 0.0
        self._taken = 0

    @property
    def rate_bps(self) -> int | None:
        """The present rate."""
        return self._rate

    def set_rate(self, rate_bps: int | None, now: float) -> None:
        """Change the rate from now on; what was earned stays earned. Raises ValueError unless positive or None."""
        checked = checked_rate(rate_bps)
        self._advance(now)
        self._rate = checked

    def take(self, size: int, now: float) -> int:
        """Ask for `size` bytes; the answer is a ticket for `wait_s`."""
        self._advance(now)
        self._taken += size
        return self._taken

    def wait_s(self, ticket: int, now: float) -> float:
        """Seconds from `now` until the ticket is served at the present rate; 0.0 when it is."""
        self._advance(now)
        if self._rate is None:
            return 0.0
        return max(0.0, (ticket - self._credit) / self._rate)

    def _advance(self, now: float) -> None:
        elapsed = max(0.0, now - self._at)
        self._at = max(now, self._at)
        if self._rate is None:
            self._credit = float(self._taken)
        else:
            self._credit = min(self._credit + elapsed * self._rate, self._taken + self._rate * BURST_S)


class Pacer:
    """A TokenBucket that is waited for: a stage's own rate. (The node's link is shared by deadline: see link.py.)"""

    def __init__(self, rate_bps: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bucket = TokenBucket(rate_bps, clock())
        self._changed = asyncio.Event()

    @property
    def rate_bps(self) -> int | None:
        """The present rate in bytes per second, None for unlimited."""
        return self._bucket.rate_bps

    def set_rate(self, rate_bps: int | None) -> None:
        """Change the rate; those who wait are re-timed at once."""
        self._bucket.set_rate(rate_bps, self._clock())
        self._changed.set()
        self._changed = asyncio.Event()

    async def pay(self, size: int) -> None:
        """Return when `size` bytes may be asked for. Waits at most size / rate behind those who came earlier."""
        ticket = self._bucket.take(size, self._clock())
        while (wait := self._bucket.wait_s(ticket, self._clock())) > 0.0:
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue


def piece_bytes(*rates_bps: int | None, background: bool = False) -> int:
    """How much to ask for at once: 50 ms worth of the slowest rate, within 64 KiB and 4 MiB.

    In the background, 10 ms worth of the fastest, which is the link's: a stage's own rate is kept by pauses.
    """
    limits = [rate for rate in rates_bps if rate is not None]
    if not limits:
        return _PIECE_MOST
    piece_s = max(limits) * _BACKGROUND_S if background else min(limits) * _PIECE_S
    return max(_PIECE_LEAST, min(_PIECE_MOST, int(piece_s)))


def reads_at_once(*rates_bps: int | None, background: bool = False) -> int:
    """How many pieces to ask for at a time: 200 ms worth of the slowest rate, 4 to 16; in the background one.

    More only cost: over a link of 50 MB/s, 16 reads take twice the CPU time of 4 and are no faster.
    """
    if background:
        return 1
    limits = [rate for rate in rates_bps if rate is not None]
    if not limits:
        return _READS_MOST
    return max(_READS_LEAST, min(_READS_MOST, -(-int(min(limits) * _IN_FLIGHT_S) // piece_bytes(*rates_bps))))


def checked_rate(rate_bps: int | None) -> int | None:
    """`rate_bps`, if it is one. Raises ValueError unless positive or None."""
    if rate_bps is not None and rate_bps <= 0:
        raise ValueError(f"a rate is positive bytes per second, or None for unlimited; got {rate_bps}")
    return rate_bps
