"""What was used and what was paid."""

from typing_extensions import TypedDict

from registry.models import LedgerEntry, Usage
from registry.ops.money import format_dollars
from registry.ops.usage import UsageTotals


class UsageDocument(TypedDict):
    """One attempt of a request on a worker. `held_ms`: how long it waited for one. `cold_start_id`: how the worker was
    started, of every attempt on it, whether or not it waited.

    `estimated`: the counts are lower bounds, since a provider's stream ended before it told them.
    """

    attempt_id: str
    request_id: str
    tenant_id: str
    key_id: str
    model_name: str
    lane: str
    endpoint: str
    outcome: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    estimated: bool
    cost_nusd: int
    cost_usd: str
    started_at_ms: int
    first_token_at_ms: int | None
    ended_at_ms: int
    held_ms: int
    cold_start_id: str | None


class TotalsDocument(TypedDict):
    """Sums over attempts. `answered`: of `requests`, those that got an answer or a part of one."""

    requests: int
    answered: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_nusd: int
    cost_usd: str


class LedgerDocument(TypedDict):
    """An entry of the ledger; a charge is negative: for an attempt, or for a share of a cold start."""

    id: int
    at_ms: int
    tenant_id: str
    kind: str
    amount_nusd: int
    amount_usd: str
    attempt_id: str | None
    cold_start_id: str | None
    reason: str | None
    author: str | None


def usage_document(row: Usage) -> UsageDocument:
    """One attempt."""
    return {
        "attempt_id": row.attempt_id,
        "request_id": row.request_id,
        "tenant_id": row.tenant_id,
        "key_id": row.key_id,
        "model_name": row.model_name,
        "lane": row.lane,
        "endpoint": row.endpoint,
        "outcome": row.outcome,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "estimated": row.estimated,
        "cost_nusd": row.cost_nusd,
        "cost_usd": format_dollars(row.cost_nusd),
        "started_at_ms": row.started_at_ms,
        "first_token_at_ms": row.first_token_at_ms,
        "ended_at_ms": row.ended_at_ms,
        "held_ms": row.held_ms,
        "cold_start_id": row.cold_start_id,
    }


def totals_document(sums: UsageTotals) -> TotalsDocument:
    """Sums, with their cost in dollars."""
    return {
        "requests": sums.requests,
        "answered": sums.answered,
        "prompt_tokens": sums.prompt_tokens,
        "cached_tokens": sums.cached_tokens,
        "completion_tokens": sums.completion_tokens,
        "cost_nusd": sums.cost_nusd,
        "cost_usd": format_dollars(sums.cost_nusd),
    }


def ledger_document(entry: LedgerEntry) -> LedgerDocument:
    """One entry."""
    return {
        "id": entry.id,
        "at_ms": entry.at_ms,
        "tenant_id": entry.tenant_id,
        "kind": entry.kind,
        "amount_nusd": entry.amount_nusd,
        "amount_usd": format_dollars(entry.amount_nusd),
        "attempt_id": entry.attempt_id,
        "cold_start_id": entry.cold_start_id,
        "reason": entry.reason,
        "author": entry.author,
    }
