"""Quota leased in slices: Redis admits attempts ahead of their requests, so that most requests of a busy key ask it
nothing (docs/adr/0017).

An attempt that was admitted ahead is an open one like any other: its request, its tokens, its parallel slot and its
reservation count from its admission on, so no limit is ever passed. A request takes one that covers it; those that
none has taken are given back within `KEEP_S`. Near a limit Redis admits none ahead (lua/admit.lua).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import orjson

from gateway.accounting.admission import Admission, Admitted, Ahead
from gateway.accounting.attempts import Attempt
from gateway.accounting.scopes import Scopes
from gateway.clock import now_ms
from gateway.errors import ApiError
from gateway.ids import new_id

AHEAD_S = 0.02
"""A slice is what requests take in this time, at the pace at which they came before."""
LEAST, MOST = 2, 31
"""Attempts of a slice. For less it is not worth it; more would keep Redis from others for too long."""
KEEP_S = 0.1
PACE_S = 0.1
"""A pace is measured over so long at least: no burst is taken for one."""
IDLE_S = 1.0


class Leases:
    """The slices of one gateway process. `give_back` must end in their being given back, whatever happens."""

    def __init__(self, admission: Admission, gateway_id: str, give_back: Callable[[Ahead], object]) -> None:
        self._admission = admission
        self._gateway_id = gateway_id
        self._give_back = give_back
        # By key, model, and the sizes of what a request reserves and counts.
        self._supplies: dict[tuple[str, str, int, int], _Supply] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def admit(self, attempt: Attempt) -> Admitted:
        """Admits an attempt, which may become one that was admitted ahead. Raises as `Admission.admit` does."""
        if attempt.lock is not None:  # which only its own admission can write
            return await self._admission.admit(attempt)
        now = time.monotonic()
        supply = self._supply(attempt, now)
        if (admitted := supply.take(attempt, now)) is not None:
            return admitted
        count = 0 if supply.asked else supply.pace.in_s(AHEAD_S)
        if count < LEAST:
            return await self._admission.admit(attempt)
        ahead = self._ahead(attempt, min(count, MOST))
        supply.asked = True
        try:
            admitted = await self._admission.admit(attempt, ahead)
        except ApiError:
            raise  # nothing was written
        except BaseException:
            self._give_back(ahead)
            raise
        finally:
            supply.asked = False
        self._give_back_rest(supply)
        supply.fill(ahead, admitted, attempt, now)
        if supply.retired:
            self._give_back_rest(supply)
        return admitted

    def close(self) -> None:
        """Gives everything back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for supply in self._supplies.values():
            self._retire(supply)
        self._supplies.clear()

    def _supply(self, attempt: Attempt, now: float) -> _Supply:
        account = attempt.account
        of = account.key_id, account.model_id, attempt.reserved_nusd.bit_length(), attempt.counted_tokens.bit_length()
        supply = self._supplies.get(of)
        if supply is None or supply.scopes is not account.scopes:  # other limits than before
            if supply is not None:
                self._retire(supply)
            supply = self._supplies[of] = _Supply(account.scopes, now)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(KEEP_S, self._tidy)
        return supply

    def _ahead(self, attempt: Attempt, count: int) -> Ahead:
        """As much for each as any request of the attempt's size reserves and counts: not twice as much."""
        tenant_id, scopes = attempt.account.tenant_id, attempt.account.scopes
        reserved_nusd, tokens = _most_of_size(attempt.reserved_nusd), _most_of_size(attempt.counted_tokens)
        record = {"tenant_id": tenant_id, "gateway_id": self._gateway_id, "ahead": True}
        record |= {"reserved_nusd": reserved_nusd, "started_at_ms": now_ms()}
        ids = tuple(new_id("att_") for _ in range(count))
        return Ahead(ids, tenant_id, scopes, reserved_nusd, tokens, b"," + orjson.dumps(record)[1:])

    def _retire(self, supply: _Supply) -> None:
        supply.retired = True
        self._give_back_rest(supply)

    def _give_back_rest(self, supply: _Supply) -> None:
        if (rest := supply.rest()) is not None:
            self._give_back(rest)

    def _tidy(self) -> None:
        now, self._timer = time.monotonic(), None
        for of, supply in list(self._supplies.items()):
            if now >= supply.until:
                self._give_back_rest(supply)
                if supply.pace.idle_since(now) >= IDLE_S and not supply.asked:
                    del self._supplies[of]
        if self._supplies:
            self._timer = asyncio.get_running_loop().call_later(KEEP_S, self._tidy)


class _Slice(NamedTuple):
    """What Redis has admitted ahead, and when; `ids` are those that nobody has taken."""

    ahead: Ahead
    ids: list[str]
    admitted: Admitted
    at_ms: int
    counted_in: tuple[str, ...]
    minute_ends: float


class _Supply:
    """What was admitted ahead for requests of one key, model and size.

    `until`: when what is left is given back, on the monotonic clock; `asked`: whether a slice is on its way;
    `retired`: nobody takes from it any more, and a slice that still comes is given back.
    """

    def __init__(self, scopes: Scopes, now: float) -> None:
        self.scopes = scopes
        self.pace = Pace(now)
        self.asked = False
        self.retired = False
        self.until = now
        self._slice: _Slice | None = None

    def fill(self, ahead: Ahead, admitted: Admitted, with_: Attempt, asked_at: float) -> None:
        """Takes over a slice that was admitted with an attempt, as many of it as there was room for."""
        assert with_.admitted_at_ms is not None
        # It was admitted later than it was asked for: this is never after the end of the minute in which it counts.
        minute_ends = asked_at + admitted.reset_ms / 1000
        ids = list(ahead.ids[: admitted.ahead])
        self._slice = _Slice(ahead, ids, admitted, with_.admitted_at_ms, with_.counted_in, minute_ends)
        self.until = min(asked_at + KEEP_S, minute_ends)

    def take(self, attempt: Attempt, now: float) -> Admitted | None:
        """Has the attempt be one of the slice, if there is one. `attempt` counts for the pace in any case."""
        self.pace.count(now)
        slice_ = self._slice
        if slice_ is None or not slice_.ids or now >= self.until:
            return None
        attempt.attempt_id = slice_.ids.pop()
        attempt.reserved_nusd, attempt.counted_tokens = slice_.ahead.reserved_nusd, slice_.ahead.counted_tokens
        attempt.applied(slice_.at_ms, slice_.counted_in)
        at_first, taken = slice_.admitted, slice_.admitted.ahead - len(slice_.ids)
        return Admitted(
            int(1000 * (slice_.minute_ends - now)),
            at_first.request_limit,
            None if at_first.requests_left is None else max(at_first.requests_left - taken, 0),
            at_first.token_limit,
            None if at_first.tokens_left is None else max(at_first.tokens_left - taken * attempt.counted_tokens, 0),
        )

    def rest(self) -> Ahead | None:
        """What is left, which is not its own any more."""
        slice_, self._slice = self._slice, None
        return slice_.ahead._replace(ids=tuple(slice_.ids)) if slice_ is not None and slice_.ids else None


class Pace:
    """How fast something comes, by whole spans of `PACE_S` at least; what has paused has no pace. Pure."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._count = 0
        self._per_s = 0.0

    def count(self, now: float) -> None:
        """One more has come."""
        took = now - self._since
        if took >= PACE_S:
            self._per_s = self._count / took
            self._since, self._count = now, 0
        self._count += 1

    def in_s(self, seconds: float) -> int:
        """How many come in so many seconds."""
        return int(self._per_s * seconds)

    def idle_since(self, now: float) -> float:
        """Seconds since the present span began."""
        return now - self._since


def _most_of_size(amount: int) -> int:
    """The largest number with as many binary digits."""
    return (1 << amount.bit_length()) - 1
