"""What pages show of budgets."""

from collections.abc import Iterable

from sqlalchemy.orm import Session

from registry.models import ApiKey, Budget
from registry.ops import budgets


def budgets_of(session: Session, tenant_id: str, scope_id: str, now_ms: int) -> list[budgets.Spending]:
    """A tenant's or key's budgets, with what is spent of each."""
    rows: list[Budget] = [row for row in budgets.list_budgets(session, [tenant_id]) if row.scope_id == scope_id]
    return budgets.spending(session, rows, now_ms)


def key_budgets(
    session: Session, tenant_id: str, keys: Iterable[ApiKey], now_ms: int
) -> list[tuple[ApiKey, budgets.Spending]]:
    """The budgets of those of a tenant's `keys` that are not revoked, with what is spent of each."""
    live = {key.id: key for key in keys if key.revoked_at_ms is None}
    rows = [row for row in budgets.list_budgets(session, [tenant_id]) if row.scope_id in live]
    return [(live[one.budget.scope_id], one) for one in budgets.spending(session, rows, now_ms)]
