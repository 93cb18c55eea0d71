"""Budgets by period, what is spent of them, and their alerts."""

from typing_extensions import TypedDict

from registry.models import BudgetAlert
from registry.ops.budgets import Spending
from registry.ops.money import format_dollars


class BudgetDocument(TypedDict):
    """What a tenant or key (`scope_id`) may spend in each `period`, and what is spent (settled) in the present one.

    `kind`: hard refuses what does not fit in, soft only alerts. `ends_at_ms`: of the present period; null: never.
    """

    scope_id: str
    tenant_id: str
    period: str
    kind: str
    amount_nusd: int
    amount_usd: str
    alert_percent: list[int]
    spent_nusd: int
    spent_usd: str
    percent: int
    ends_at_ms: int | None


class AlertDocument(TypedDict):
    """A threshold of a budget that was reached, once in each of its periods."""

    scope_id: str
    tenant_id: str
    period: str
    percent: int
    spent_nusd: int
    amount_nusd: int
    at_ms: int


def budget_document(spending: Spending) -> BudgetDocument:
    """A budget with what is spent of it."""
    row = spending.budget
    return {
        "scope_id": row.scope_id,
        "tenant_id": row.tenant_id,
        "period": row.period,
        "kind": "hard" if row.hard else "soft",
        "amount_nusd": row.amount_nusd,
        "amount_usd": format_dollars(row.amount_nusd),
        "alert_percent": list(row.alert_percent),
        "spent_nusd": spending.spent_nusd,
        "spent_usd": format_dollars(spending.spent_nusd),
        "percent": spending.percent,
        "ends_at_ms": spending.ends_at_ms,
    }


def alert_document(row: BudgetAlert) -> AlertDocument:
    """An alert."""
    return {
        "scope_id": row.scope_id,
        "tenant_id": row.tenant_id,
        "period": row.period,
        "percent": row.percent,
        "spent_nusd": row.spent_nusd,
        "amount_nusd": row.amount_nusd,
        "at_ms": row.at_ms,
    }
