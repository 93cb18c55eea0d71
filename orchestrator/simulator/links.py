"""One host's link as a fluid: its transfers share it equally or one after the other, and when one ends the others speed
up at once."""

from dataclasses import dataclass

from orchestrator.types import Sharing


@dataclass(slots=True)
class Transfer:
    """Bytes on their way to a stage."""

    key: str
    remaining: float
    deadline_ms: int


class Link:
    """`bps` bytes per second. `version` grows with every change, so that an older forecast can be told from a newer."""

    def __init__(self, bps: int, sharing: Sharing = Sharing.EQUALLY) -> None:
        self.bps = bps
        self._by_deadline = sharing is Sharing.BY_DEADLINE
        self.version = 0
        self.transfers: dict[str, Transfer] = {}
        self._at_ms = 0

    def begin(self, now_ms: int, key: str, nbytes: int, deadline_ms: int) -> None:
        """Start a transfer."""
        self.advance(now_ms)
        self.transfers[key] = Transfer(key, float(nbytes), deadline_ms)
        self.version += 1

    def drop(self, now_ms: int, key: str) -> None:
        """End a transfer, complete or not; one that is not there is no error."""
        self.advance(now_ms)
        if self.transfers.pop(key, None) is not None:
            self.version += 1

    def advance(self, now_ms: int) -> None:
        """Move what has been moved since the last change."""
        budget = self.bps * (now_ms - self._at_ms) / 1000
        self._at_ms = now_ms
        if self._by_deadline:
            for transfer in self._in_turn():
                step = min(transfer.remaining, budget)
                transfer.remaining -= step
                budget -= step
            return
        going = sorted((t for t in self.transfers.values() if t.remaining > 0), key=lambda t: t.remaining)
        for position, first in enumerate(going):
            sharing = len(going) - position
            step = min(first.remaining, budget / sharing)
            for transfer in going[position:]:
                transfer.remaining -= step
            budget -= step * sharing
            if first.remaining > 0:
                return
            first.remaining = 0.0

    def next_end_ms(self) -> int | None:
        """When the next transfer is complete if nothing changes, as of the last `advance`."""
        if not self.transfers:
            return None
        if self._by_deadline:
            least = self._in_turn()[0].remaining
        else:
            least = min(transfer.remaining for transfer in self.transfers.values()) * len(self.transfers)
        return self._at_ms + int(-(-least * 1000 // self.bps))

    def _in_turn(self) -> list[Transfer]:
        """Of equal deadlines the one that began first."""
        return sorted(self.transfers.values(), key=lambda transfer: transfer.deadline_ms)

    def complete(self, now_ms: int) -> list[str]:
        """Keys of the transfers that have all their bytes by now, which end."""
        self.advance(now_ms)
        done = [transfer.key for transfer in self.transfers.values() if transfer.remaining < 1.0]
        for key in done:
            del self.transfers[key]
        if done:
            self.version += 1
        return done
