"""Settling: usage events become usage and ledger rows, exactly once, whatever is delivered how often."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import Table, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from registry.errors import NotFoundError
from registry.ids import now_ms
from registry.models import Base, LedgerEntry, Price, RejectedUsage, Tenant, Usage
from registry.ops import audit, checks

_Tokens = Annotated[int, Field(ge=0, le=10**9)]
_Time = Annotated[int, Field(ge=0, le=2**53)]
# Postgres stores no NUL character. Lone surrogates, which no database stores, are no text to pydantic either.
_Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
_Id = Annotated[_Text, Field(min_length=1, max_length=40)]
# Rows per INSERT: SQLite before 3.32 took at most 999 variables, and Postgres takes 65535; a usage row has 22.
_ROWS_PER_INSERT = 40
_Row = TypeVar("_Row", bound=Mapping[str, Any])


class UsageEvent(BaseModel):
    """The final event of an attempt (docs/interfaces.md, section 4)."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    attempt_id: _Id
    request_id: Annotated[_Text, Field(max_length=128)]
    tenant_id: _Id
    key_id: _Id
    model: Annotated[_Text, Field(max_length=120)]
    model_id: _Id
    price_id: _Id
    group_id: Annotated[_Text, Field(max_length=40)] | None = None
    cold_start_id: Annotated[_Text, Field(max_length=40)] | None = None
    gateway_id: Annotated[_Text, Field(max_length=40)]
    lane: Annotated[_Text, Field(max_length=16)]
    endpoint: Annotated[_Text, Field(max_length=60)]
    stream: bool
    prompt_tokens: _Tokens
    cached_tokens: _Tokens
    completion_tokens: _Tokens
    outcome: Literal["ok", "client_closed", "upstream_error", "gateway_stopped", "gateway_lost"]
    started_at_ms: _Time
    admitted_at_ms: _Time | None = None
    first_token_at_ms: _Time | None = None
    ended_at_ms: _Time
    held_ms: _Time = 0
    estimated: bool = False

    @model_validator(mode="after")
    def _cached_is_part_of_prompt(self) -> "UsageEvent":
        if self.cached_tokens > self.prompt_tokens:
            raise ValueError("cached_tokens exceeds prompt_tokens")
        return self


@dataclass(frozen=True)
class RejectedEvent:
    """An event that could not be billed. It is kept in `rejected_usage` under `digest`."""

    digest: str
    reason: str


@dataclass
class Settlement:
    """What one `settle` did. `tenant_ids`: whose balance to publish, those of re-delivered events included, because
    the first delivery may have died between its commit and its publication."""

    tenant_ids: set[str] = field(default_factory=set)
    settled: list[str] = field(default_factory=list)  # attempt ids billed now
    corrected: list[str] = field(default_factory=list)  # attempt ids billed as lost before, and now to their true end
    repeated: list[str] = field(default_factory=list)  # attempt ids that were billed before
    rejected: list[RejectedEvent] = field(default_factory=list)


def cost_nusd(event: UsageEvent, price: Price) -> int:
    """Nano-dollars of an attempt: uncached prompt, cached prompt and completion tokens at their prices, and the
    request's; nothing for an attempt that delivered nothing."""
    if event.completion_tokens == 0 and event.outcome != "ok":
        return 0
    return (
        (event.prompt_tokens - event.cached_tokens) * price.input_nusd
        + event.cached_tokens * price.cached_input_nusd
        + event.completion_tokens * price.output_nusd
        + price.request_nusd
    )


def settle(session: Session, events: Iterable[Any]) -> Settlement:
    """Bill `events`, each attempt once: of several deliveries, in this call or any other, the first counts.

    But an attempt whose gateway was taken for dead is billed up to its last checkpoint. If that gateway lived and tells
    its true end after all, the rest is added, once.

    Usage and ledger rows are written in the caller's transaction. An event that is malformed, or names a tenant or
    price that does not exist, is stored in `rejected_usage` and returned; it blocks no other. The caller commits, then
    publishes the balances of `tenant_ids`, then acknowledges all events, the rejected ones too.
    """
    result = Settlement()
    parsed: dict[str, UsageEvent] = {}
    originals: dict[str, Any] = {}
    rejected: dict[str, tuple[Any, str]] = {}
    for event in events:
        try:
            usage = UsageEvent.model_validate(event)
        except ValidationError as error:
            rejected[_digest(event)] = (event, _first_reason(error))
            continue
        if usage.attempt_id in parsed:
            result.repeated.append(usage.attempt_id)
            continue
        parsed[usage.attempt_id] = usage
        originals[usage.attempt_id] = event

    prices = _by_id(session, Price, {usage.price_id for usage in parsed.values()})
    tenants = _by_id(session, Tenant, {usage.tenant_id for usage in parsed.values()})
    costs: dict[str, int] = {}
    # Always in the same order: two settlers of overlapping batches wait for each other, but never in a circle.
    for attempt_id, usage in sorted(parsed.items()):
        price = prices.get(usage.price_id)
        if price is None or usage.tenant_id not in tenants:
            named = f"price_id {usage.price_id}" if price is None else f"tenant_id {usage.tenant_id}"
            event = originals[attempt_id]
            rejected[_digest(event)] = (event, f"{named} does not exist")
            continue
        cost = cost_nusd(usage, price)
        if cost > checks.MAX_AMOUNT:
            event = originals[attempt_id]
            rejected[_digest(event)] = (event, f"cost: {cost} nano-dollars are more than an amount may be")
            continue
        costs[attempt_id] = cost
        result.tenant_ids.add(usage.tenant_id)

    inserted = _insert_usage(session, [_usage_row(parsed[attempt_id], cost) for attempt_id, cost in costs.items()])
    result.settled = sorted(inserted)
    at_ms = now_ms()
    before = {attempt_id: parsed[attempt_id] for attempt_id in costs if attempt_id not in inserted}
    result.corrected = _correct_lost(session, before, costs, at_ms)
    result.repeated.extend(attempt_id for attempt_id in before if attempt_id not in result.corrected)
    _insert(
        session,
        LedgerEntry,
        [
            {
                "tenant_id": parsed[attempt_id].tenant_id,
                "kind": "settle",
                "amount_nusd": -costs[attempt_id],
                "attempt_id": attempt_id,
                "at_ms": at_ms,
            }
            for attempt_id in result.settled
        ],
    )
    _insert(
        session,
        RejectedUsage,
        [
            {"digest": digest, "event": _canonical(event), "reason": reason, "at_ms": at_ms}
            for digest, (event, reason) in sorted(rejected.items())
        ],
    )
    result.rejected = [RejectedEvent(digest, reason) for digest, (_event, reason) in rejected.items()]
    return result


def list_rejected(session: Session, *, limit: int = 100) -> Sequence[RejectedUsage]:
    """Unresolved rejected events, the oldest first."""
    query = select(RejectedUsage).where(RejectedUsage.resolved_at_ms.is_(None))
    return session.scalars(query.order_by(RejectedUsage.at_ms).limit(limit)).all()


def retry_rejected(session: Session, actor: str, digest: str) -> Settlement:
    """Settle a rejected event again, after its cause was mended. It is resolved if it is billed now or was before."""
    row = session.get(RejectedUsage, digest)
    if row is None:
        raise NotFoundError(f"there is no rejected usage event {digest}", "digest")
    result = settle(session, [json.loads(row.event)])
    if not result.rejected:
        row.resolved_at_ms = now_ms()
        audit.record(session, actor, "usage.retry", digest[:40], settled=result.settled)
    return result


def _usage_row(usage: UsageEvent, cost: int) -> dict[str, Any]:
    row = usage.model_dump()
    row["model_name"] = row.pop("model")
    if usage.admitted_at_ms is None:  # of a gateway before there were budgets
        row["admitted_at_ms"] = usage.started_at_ms
    return {**row, "cost_nusd": cost}


def _insert_usage(session: Session, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert what is new; returns the attempt ids that were."""
    inserted: set[str] = set()
    for chunk in _chunks(rows):
        statement = _insert_ignoring(session, Usage).values(list(chunk)).returning(Usage.attempt_id)
        inserted.update(session.scalars(statement))
    return inserted


def _correct_lost(
    session: Session, events: Mapping[str, UsageEvent], costs: Mapping[str, int], at_ms: int
) -> list[str]:
    """Replace what was billed as lost by its real end, where that costs more; the attempt ids of which it was."""
    real = sorted(attempt_id for attempt_id, event in events.items() if event.outcome != "gateway_lost")
    corrected = []
    for start in range(0, len(real), 500):
        # Locked in order, and asked again after the wait: another settler may have corrected it meanwhile.
        query = select(Usage).where(Usage.attempt_id.in_(real[start : start + 500]), Usage.outcome == "gateway_lost")
        for row in session.scalars(query.order_by(Usage.attempt_id).with_for_update()):
            rest = costs[row.attempt_id] - row.cost_nusd
            if rest <= 0:
                continue
            # Unique by (attempt id, kind): a second one would be an error, and is never a second charge.
            session.add(
                LedgerEntry(
                    tenant_id=row.tenant_id,
                    kind="adjust",
                    amount_nusd=-rest,
                    attempt_id=row.attempt_id,
                    reason="the end of an attempt that was billed as lost",
                    at_ms=at_ms,
                )
            )
            for column, value in _usage_row(events[row.attempt_id], costs[row.attempt_id]).items():
                if column != "tenant_id":
                    setattr(row, column, value)
            corrected.append(row.attempt_id)
    session.flush()
    return corrected


def _insert(session: Session, model: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    for chunk in _chunks(rows):
        session.execute(_insert_ignoring(session, model).values(list(chunk)))


def _insert_ignoring(session: Session, model: type[Base]) -> Any:
    """INSERT ... ON CONFLICT DO NOTHING in the dialect at hand; the two constructs share no public base class."""
    table = model.__table__
    assert isinstance(table, Table)
    insert = postgresql_insert if session.get_bind().dialect.name == "postgresql" else sqlite_insert
    return insert(table).on_conflict_do_nothing()


def _chunks(rows: Sequence[_Row]) -> Iterable[Sequence[_Row]]:
    return (rows[start : start + _ROWS_PER_INSERT] for start in range(0, len(rows), _ROWS_PER_INSERT))


_Named = TypeVar("_Named", Price, Tenant)


def _by_id(session: Session, model: type[_Named], ids: set[str]) -> dict[str, _Named]:
    ordered, found = sorted(ids), {}
    for start in range(0, len(ordered), 500):
        for row in session.scalars(select(model).where(model.id.in_(ordered[start : start + 500]))):
            found[row.id] = row
    return found


def _first_reason(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "event"
    return f"{where}: {first['msg']}"


def _canonical(event: Any) -> str:
    return json.dumps(event, sort_keys=True, default=repr)


def _digest(event: Any) -> str:
    return hashlib.sha256(_canonical(event).encode()).hexdigest()
