"""What a gateway may admit on its own while Redis is away: a little for each key, counted exactly. No I/O.

An attempt counts from its admission until Redis has taken its end: so all that a process has admitted on its own and
not yet handed to the ledger is never more than the allowance, however often Redis comes and goes.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.accounting.attempts import Attempt


@dataclass(frozen=True, slots=True)
class AllowanceLimits:
    """For each key in one process: requests, and nano-dollars that they may cost."""

    requests: int
    amount_nusd: int


@dataclass(slots=True)
class _Used:
    requests: int = 0
    amount_nusd: int = 0


class Allowance:
    """Counts by key. Without limits (`None`) nothing is ever admitted."""

    def __init__(self, limits: AllowanceLimits | None) -> None:
        self._limits = limits
        self._used: dict[str, _Used] = {}
        self._open: dict[str, tuple[str, int]] = {}

    def take(self, attempt: Attempt) -> bool:
        """Whether the attempt may run; then it counts with all that it may cost. Its rate limits hold, too: for the
        whole time, as if it were one minute."""
        limits = self._limits
        if limits is None:
            return False
        key_id = attempt.account.key_id
        used = self._used.get(key_id) or _Used()
        rates = (scope.limits.rpm for scope in attempt.account.scopes.limits)
        requests = min((limits.requests, *(rate for rate in rates if rate is not None)))
        if used.requests >= requests or used.amount_nusd + attempt.reserved_nusd > limits.amount_nusd:
            return False
        used.requests += 1
        self._used[key_id] = used
        self._count(key_id, attempt.attempt_id, attempt.reserved_nusd)
        return True

    def holds(self, attempt_id: str) -> bool:
        """Whether the attempt was admitted here, and Redis has not heard of its end."""
        return attempt_id in self._open

    def pass_on(self, old: Attempt, new: Attempt) -> None:
        """Lets a request's next attempt stand for the last one, which has cost nothing."""
        key_id, amount_nusd = self._open.pop(old.attempt_id)
        self._open[new.attempt_id] = key_id, amount_nusd

    def ended(self, attempt_id: str, cost_nusd: int) -> None:
        """Counts from now on what the attempt has cost, until `published`."""
        if attempt_id in self._open:
            key_id, before = self._open[attempt_id]
            self._count(key_id, attempt_id, cost_nusd, before)

    def published(self, attempt_id: str) -> None:
        """Redis has the attempt's end: it is the ledger's now."""
        if attempt_id in self._open:
            key_id, amount_nusd = self._open.pop(attempt_id)
            used = self._used[key_id]
            used.requests -= 1
            used.amount_nusd -= amount_nusd
            if not used.requests:
                del self._used[key_id]

    def _count(self, key_id: str, attempt_id: str, amount_nusd: int, before: int = 0) -> None:
        self._open[attempt_id] = key_id, amount_nusd
        self._used[key_id].amount_nusd += amount_nusd - before
