"""A node's link between its fetches: whoever has the earliest deadline is served first, the others with what it leaves.

As in pacing.py, bytes are paid for before they are asked for, and credit that nobody used is kept for BURST_S only. A
fetch waits with one payment at a time, so one that is slower than the link (its source is) leaves the rest to others.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable

from engine.weights.pacing import BURST_S, checked_rate

Due = float
"""A deadline, ms since the epoch; only their order counts."""
AT_ONCE: Due = 0.0
"""Of a model's small files: an engine cannot begin without them, and they are over before they could delay anyone."""
NEVER: Due = float("inf")
"""Of a fetch that nobody waits for."""


class DueBucket:
    """The pure half. Times are seconds of any monotonic clock, `rate_bps` bytes per second, None for unlimited."""

    def __init__(self, rate_bps: int | None, now: float) -> None:
        self.rate_bps = checked_rate(rate_bps)
        self._at = now
        self._credit = 0.0
        self._asked = 0
        self._waiting: list[tuple[Due, int, int]] = []
        self._gone: set[int] = set()

    def ask(self, size: int, due: Due) -> int:
        """Ask for `size` bytes; the answer is a ticket. Of equal deadlines the first to ask is served first."""
        self._asked += 1
        heapq.heappush(self._waiting, (due, self._asked, size))
        return self._asked

    def withdraw(self, ticket: int) -> None:
        """One that was not served needs it no more."""
        self._gone.add(ticket)

    def serve(self, now: float) -> list[int]:
        """Tickets whose bytes may be asked for by now, in order; each is told once."""
        served = []
        while (head := self._head()) is not None:
            self._earn(now, head[2])
            if self.rate_bps is not None:
                if self._credit < head[2]:
                    break
                self._credit -= head[2]
            heapq.heappop(self._waiting)
            served.append(head[1])
        if self._head() is None:
            self._earn(now, 0)
        return served

    def wait_s(self) -> float | None:
        """Seconds after the last `serve` until there is one to serve; None while nobody waits."""
        head = self._head()
        if head is None or self.rate_bps is None:
            return None
        return max(0.0, (head[2] - self._credit) / self.rate_bps)

    def _head(self) -> tuple[Due, int, int] | None:
        while self._waiting and self._waiting[0][1] in self._gone:
            self._gone.discard(heapq.heappop(self._waiting)[1])
        return self._waiting[0] if self._waiting else None

    def _earn(self, now: float, wanted: int) -> None:
        """Credit up to now; what is waited for may be saved up, however slow the link is."""
        if self.rate_bps is not None:
            # On top of what is waited for: a timer that fires late must not cost the link what came meanwhile.
            most = self.rate_bps * BURST_S + wanted
            self._credit = min(most, self._credit + max(0.0, now - self._at) * self.rate_bps)
        self._at = max(now, self._at)


class Link:
    """A DueBucket that is waited for, on one event loop."""

    def __init__(self, rate_bps: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bucket = DueBucket(rate_bps, clock())
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def rate_bps(self) -> int | None:
        """Bytes per second, None for unlimited."""
        return self._bucket.rate_bps

    async def pay(self, size: int, due: Due) -> None:
        """Return when `size` bytes may be asked for by a fetch with that deadline."""
        ticket = self._bucket.ask(size, due)
        served = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._serve()
        try:
            await served
        except asyncio.CancelledError:
            if self._waiting.pop(ticket, None) is not None:
                self._bucket.withdraw(ticket)
                self._serve()
            raise

    def _serve(self) -> None:
        for ticket in self._bucket.serve(self._clock()):
            served = self._waiting.pop(ticket)
            if not served.done():
                served.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait_s = self._bucket.wait_s()
        if wait_s is not None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._serve)
