"""What pages show of budgets."""

from sqlalchemy.orm import Session

from registry.models import Budget
from registry.ops import budgets


def budgets_of(session: Session, tenant_id: str, scope_id: str, now_ms: int) -> list[budgets.Spending]:
    """A tenant's or key's budgets, with what is spent of each."""
    rows: list[Budget] = [row for row in budgets.list_budgets(session, [tenant_id]) if row.scope_id == scope_id]
    return budgets.spending(session, rows, now_ms)
