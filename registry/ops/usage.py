"""Questions about usage and the ledger, for pages, the command line and CSV."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, case, func, or_, select
from sqlalchemy.orm import Session

from registry.errors import InvalidError
from registry.models import ApiKey, LedgerEntry, Usage
from registry.ops.csv_text import csv_lines
from registry.ops.money import format_dollars

MAX_PAGE = 1000
_CSV_CHUNK = 1000
_DAY_MS = 86_400_000
USAGE_COLUMNS = (
    "attempt_id",
    "request_id",
    "tenant_id",
    "key_id",
    "model_name",
    "lane",
    "endpoint",
    "outcome",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "estimated",
    "cost_nusd",
    "started_at_ms",
    "first_token_at_ms",
    "ended_at_ms",
    "held_ms",
    "cold_start_id",
)
LEDGER_COLUMNS = ("id", "at_ms", "tenant_id", "kind", "amount_nusd", "attempt_id", "cold_start_id", "reason", "author")

ANSWERED = or_(Usage.outcome == "ok", Usage.completion_tokens > 0)
"""Whether an attempt's client got an answer, or a part of one."""


@dataclass(frozen=True)
class UsageFilter:
    """Which usage: `[from_ms, until_ms)` by the end of the attempt; a user's is its keys'. None does not restrict."""

    tenant_id: str | None = None
    model_id: str | None = None
    key_id: str | None = None
    user_id: str | None = None
    from_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True)
class UsageTotals:
    """Sums over a filter. `answered`: of `requests`, those that got an answer or a part of one, as on invoices."""

    requests: int
    answered: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_nusd: int


def list_usage(session: Session, wanted: UsageFilter, *, limit: int = 50, offset: int = 0) -> Sequence[Usage]:
    """A page of attempts, the latest first."""
    query = _restrict(select(Usage), wanted).order_by(Usage.ended_at_ms.desc(), Usage.attempt_id.desc())
    return session.scalars(query.limit(_page(limit)).offset(max(0, offset))).all()


def usage_totals(session: Session, wanted: UsageFilter) -> UsageTotals:
    """Sums of everything that the filter lets through."""
    return UsageTotals(*(int(value or 0) for value in session.execute(_restrict(_sums(), wanted)).one()))


def usage_by_model(session: Session, wanted: UsageFilter) -> dict[str, UsageTotals]:
    """Sums for each model name, by name."""
    query = _restrict(_sums().add_columns(Usage.model_name), wanted)
    rows = session.execute(query.group_by(Usage.model_name).order_by(Usage.model_name))
    return {row[-1]: UsageTotals(*(int(value or 0) for value in row[:-1])) for row in rows}


def usage_by_day(session: Session, wanted: UsageFilter) -> Sequence[tuple[int, str, str, int]]:
    """(when the day begins, UTC, ms; key id; model name; nano-dollars) for each that had usage, by day."""
    day = Usage.ended_at_ms - Usage.ended_at_ms % _DAY_MS
    sums: Select[*tuple[Any, ...]] = select(day, Usage.key_id, Usage.model_name, func.sum(Usage.cost_nusd))
    rows = session.execute(_restrict(sums, wanted).group_by(day, Usage.key_id, Usage.model_name).order_by(day))
    return [(int(began), key_id, model, int(cost)) for began, key_id, model, cost in rows]


def list_ledger(
    session: Session, *, tenant_id: str | None = None, before_id: int | None = None, limit: int = 50
) -> Sequence[LedgerEntry]:
    """A page of ledger entries, the latest first; `before_id` (the last id of a page) gives the next page."""
    query = select(LedgerEntry).order_by(LedgerEntry.id.desc()).limit(_page(limit))
    if tenant_id is not None:
        query = query.where(LedgerEntry.tenant_id == tenant_id)
    if before_id is not None:
        query = query.where(LedgerEntry.id < before_id)
    return session.scalars(query).all()


def usage_csv(session: Session, wanted: UsageFilter) -> Iterator[str]:
    """Usage as CSV text, the oldest first, in pieces of bounded size; the column after `cost_nusd` is in dollars."""
    position = USAGE_COLUMNS.index("cost_nusd")
    yield csv_lines([(*USAGE_COLUMNS[: position + 1], "cost_usd", *USAGE_COLUMNS[position + 1 :])])
    query = _restrict(select(*(getattr(Usage, column) for column in USAGE_COLUMNS)), wanted)
    query = query.order_by(Usage.ended_at_ms, Usage.attempt_id)
    for rows in session.execute(query.execution_options(yield_per=_CSV_CHUNK)).partitions():
        yield csv_lines([(*row[: position + 1], format_dollars(row[position]), *row[position + 1 :]) for row in rows])


def ledger_csv(session: Session, tenant_id: str | None = None) -> Iterator[str]:
    """The ledger as CSV text, the oldest first, in pieces of bounded size; `amount_usd` follows `amount_nusd`."""
    position = LEDGER_COLUMNS.index("amount_nusd")
    yield csv_lines([(*LEDGER_COLUMNS[: position + 1], "amount_usd", *LEDGER_COLUMNS[position + 1 :])])
    query = select(*(getattr(LedgerEntry, column) for column in LEDGER_COLUMNS)).order_by(LedgerEntry.id)
    if tenant_id is not None:
        query = query.where(LedgerEntry.tenant_id == tenant_id)
    for rows in session.execute(query.execution_options(yield_per=_CSV_CHUNK)).partitions():
        yield csv_lines([(*row[: position + 1], format_dollars(row[position]), *row[position + 1 :]) for row in rows])


def _sums() -> Select[*tuple[Any, ...]]:
    sums: Select[*tuple[Any, ...]] = select(
        func.count(),
        func.sum(case((ANSWERED, 1), else_=0)),
        func.sum(Usage.prompt_tokens),
        func.sum(Usage.cached_tokens),
        func.sum(Usage.completion_tokens),
        func.sum(Usage.cost_nusd),
    ).select_from(Usage)
    return sums


def _restrict(query: Select[*tuple[Any, ...]], wanted: UsageFilter) -> Select[*tuple[Any, ...]]:
    if wanted.tenant_id is not None:
        query = query.where(Usage.tenant_id == wanted.tenant_id)
    if wanted.model_id is not None:
        query = query.where(Usage.model_id == wanted.model_id)
    if wanted.key_id is not None:
        query = query.where(Usage.key_id == wanted.key_id)
    if wanted.user_id is not None:
        query = query.where(Usage.key_id.in_(select(ApiKey.id).where(ApiKey.user_id == wanted.user_id)))
    if wanted.from_ms is not None:
        query = query.where(Usage.ended_at_ms >= wanted.from_ms)
    if wanted.until_ms is not None:
        query = query.where(Usage.ended_at_ms < wanted.until_ms)
    return query


def _page(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidError(f"limit must be from 1 to {MAX_PAGE}", "limit")
    return limit
