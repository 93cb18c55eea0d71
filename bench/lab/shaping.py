"""How fast a link is and how much may wait before it: the numbers for the kernel's token bucket (tbf). Pure.

A rate counts headers too: of the 1514 bytes of a full packet 1448 are payload, so goodput is 95.6 % of it.
"""

from __future__ import annotations

from dataclasses import dataclass

PAYLOAD = 0.95
"""What a node may count on of its link's rate: a little less than goodput, so that the fetches of four nodes together
do not ask more of the store's link than it carries, and none is late for another."""

STORE_FACTOR = 4
"""The store's link, in links of a node."""

QUEUE_S = 0.015
"""The longest wait of a packet behind those queued before it. A bulk fetch keeps its link's queue full, so that this is
what it adds to a small message's way; with a much shorter one, a single connection does not fill the link."""

BURST_S = 0.002
"""How late the kernel's timer may be without a loss of rate: what a link sends at once after a pause."""

LEAST_BURST = 96 * 1024
"""Above what segmentation offload hands over at once (64 KiB): larger packets would be taken apart in software."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One direction of a link. `rate_bps` is bytes/s; `burst` and `limit` (the queue) are bytes."""

    rate_bps: int
    burst: int
    limit: int

    def qdisc(self, device: str) -> str:
        """The line for `tc -batch` that shapes what leaves through `device`."""
        return f"qdisc add dev {device} root tbf rate {self.rate_bps}bps burst {self.burst}b limit {self.limit}b"


def shape(mbit: float) -> Shape:
    """The shape of a link of `mbit` Mbit/s (10^6 bits, on the wire). Raises ValueError unless it is above 0."""
    if mbit <= 0:
        raise ValueError(f"a link of {mbit} Mbit/s: expected a rate above 0")
    rate = mbit * 1e6 / 8
    burst = max(LEAST_BURST, rate * BURST_S)
    # A queue that does not hold two such packets would drop every second one.
    return Shape(int(rate), int(burst), int(max(2 * LEAST_BURST, rate * QUEUE_S)))
