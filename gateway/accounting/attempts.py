"""One try of a request on a worker, and the usage it has so far. Pure.

What every request makes and nobody changes is a named tuple: a frozen dataclass takes several times as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from gateway.accounting.scopes import UNLIMITED, Scopes
from gateway.body.parsing import Endpoint
from gateway.clock import now_ms
from gateway.ids import new_id
from gateway.readmodel.snapshot import Price


class Usage(NamedTuple):
    """Tokens, by the engine's count; `estimated`: by ours, of a provider's stream that was cut short."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    def totals(self) -> dict[str, int]:
        """The three counts of OpenAI's `usage` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def cost_nusd(self, price: Price) -> int:
        """Nano-dollars: uncached prompt, cached prompt and completion tokens at their prices, and the request's."""
        return (
            (self.prompt_tokens - self.cached_tokens) * price.input_nusd
            + self.cached_tokens * price.cached_input_nusd
            + self.completion_tokens * price.output_nusd
            + price.request_nusd
        )


NO_USAGE = Usage()


class Account(NamedTuple):
    """What stays the same over all attempts of one request; `scopes`: what it is counted in."""

    request_id: str
    tenant_id: str
    key_id: str
    model: str
    model_id: str
    price: Price
    lane: str
    endpoint: str
    stream: bool
    gateway_id: str
    scopes: Scopes = UNLIMITED


@dataclass(slots=True)
class Attempt:
    """An open attempt. `reserved_nusd` is held against the balance and in the budgets of `counted_in` (Redis fields),
    `counted_tokens` against the minute in which it was admitted, by the clock of Redis."""

    account: Account
    reserved_nusd: int
    counted_tokens: int
    started_at_ms: int
    admitted_at_ms: int | None = None
    counted_in: tuple[str, ...] = ()
    # The Redis key and value by which its Idempotency-Key is kept while it runs.
    lock: tuple[str, str] | None = None
    attempt_id: str = field(default_factory=lambda: new_id("att_"))
    group_id: str | None = None
    cold_start_id: str | None = None
    first_token_at_ms: int | None = None
    held_ms: int = 0
    usage: Usage = NO_USAGE
    provider_asked: bool = False

    @property
    def dispatched(self) -> bool:
        """Whether it was given to a worker, or to a provider."""
        return self.group_id is not None or self.provider_asked

    def successor(self) -> Attempt:
        """The attempt that takes over this one's reservation, for another worker."""
        return Attempt(
            self.account,
            self.reserved_nusd,
            self.counted_tokens,
            now_ms(),
            self.admitted_at_ms,
            self.counted_in,
            self.lock,
            held_ms=self.held_ms,
        )

    def deliver(self, usage: Usage) -> None:
        """Notes that the client has all up to this usage. Vectors have no tokens, and come at once."""
        if self.first_token_at_ms is None and (
            usage.completion_tokens or self.account.endpoint == Endpoint.EMBEDDINGS.path
        ):
            self.first_token_at_ms = now_ms()
        self.usage = usage

    def applied(self, admitted_at_ms: int, counted_in: tuple[str, ...]) -> None:
        """Notes what admission has answered."""
        self.admitted_at_ms, self.counted_in = admitted_at_ms, counted_in

    def application(self) -> bytes:
        """The attempt as JSON, for `hyd:attempts`, but for what admission itself adds to it."""
        return orjson.dumps(self._fields(self.usage, self.reserved_nusd))

    def record(self) -> bytes:
        """The open attempt as JSON, for `hyd:attempts`."""
        fields = self._fields(self.usage, self.reserved_nusd)
        self._add_admission(fields)
        return orjson.dumps(fields)

    def final(self, outcome: str) -> FinalEvent:
        """The final event. Nothing delivered costs nothing; what is reserved from now on is what it cost."""
        delivered = outcome == "ok" or self.usage.completion_tokens > 0
        usage = self.usage if delivered else NO_USAGE
        reserved_nusd = min(usage.cost_nusd(self.account.price) if delivered else 0, self.reserved_nusd)
        event = self._fields(usage, reserved_nusd)
        self._add_admission(event)
        event["outcome"] = outcome
        event["ended_at_ms"] = now_ms()
        return FinalEvent(
            attempt_id=self.attempt_id,
            tenant_id=self.account.tenant_id,
            slot_keys=self.account.scopes.slot_keys,
            token_keys=self.account.scopes.token_keys,
            surplus_tokens=self.counted_tokens - usage.prompt_tokens - usage.completion_tokens,
            reserved_nusd=reserved_nusd,
            body=orjson.dumps(event),
            lock=self.lock,
        )

    def _add_admission(self, fields: dict[str, Any]) -> None:
        # By this clock where there was no admission by Redis.
        fields["admitted_at_ms"] = self.admitted_at_ms or self.started_at_ms
        fields["budgets"] = self.counted_in

    def _fields(self, usage: Usage, reserved_nusd: int) -> dict[str, Any]:
        account = self.account
        return {
            "attempt_id": self.attempt_id,
            "request_id": account.request_id,
            "tenant_id": account.tenant_id,
            "key_id": account.key_id,
            "model": account.model,
            "model_id": account.model_id,
            "price_id": account.price.price_id,
            "group_id": self.group_id,
            "cold_start_id": self.cold_start_id,
            "gateway_id": account.gateway_id,
            "lane": account.lane,
            "endpoint": account.endpoint,
            "stream": account.stream,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "estimated": usage.estimated,
            "reserved_nusd": reserved_nusd,
            "started_at_ms": self.started_at_ms,
            "first_token_at_ms": self.first_token_at_ms,
            "held_ms": self.held_ms,
        }


class FinalEvent(NamedTuple):
    """A final event and what its publication needs: where it had slots, which scopes counted its tokens, how many of
    those (`surplus_tokens`) it has not used, and what is reserved until it is settled."""

    attempt_id: str
    tenant_id: str
    slot_keys: tuple[str, ...]
    token_keys: tuple[str, ...]
    surplus_tokens: int
    reserved_nusd: int
    body: bytes
    """The event as JSON."""
    lock: tuple[str, str] | None = None

    def to_line(self) -> bytes:
        """One line of the spool."""
        where = _where(self.slot_keys, self.token_keys)
        return b'{"event":%b,%b,"surplus_tokens":%d}\n' % (self.body, where, self.surplus_tokens)

    @staticmethod
    def from_line(line: bytes) -> FinalEvent:
        """Reads a spool line. Raises ValueError (orjson's, too) or KeyError for a torn one."""
        raw = orjson.loads(line)
        event = raw["event"]
        # A gateway before there were lists of scopes has left none: those slots and minutes have passed anyway.
        slots, tokens = tuple(raw.get("slots", ())), tuple(raw.get("tokens", ()))
        return FinalEvent(
            event["attempt_id"],
            event["tenant_id"],
            slots,
            tokens,
            raw["surplus_tokens"],
            event["reserved_nusd"],
            orjson.dumps(event),
        )


@lru_cache(1024)
def _where(slot_keys: tuple[str, ...], token_keys: tuple[str, ...]) -> bytes:
    """The part of a spool line that all events of the same scopes share."""
    return orjson.dumps({"slots": slot_keys, "tokens": token_keys})[1:-1]
