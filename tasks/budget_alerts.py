"""Tells when spending has reached a budget's threshold: a row in SQL and a line in the log, once in each window."""

from collections.abc import Collection, Mapping

import structlog
from sqlalchemy.exc import IntegrityError

from registry.db import session_scope
from registry.ids import now_ms
from registry.models import BudgetAlert
from registry.ops.budgets import list_budgets, owner_names, record_alerts, spending
from tasks.runtime import Runtime

log = structlog.get_logger(__name__)


def alert(here: Runtime, tenant_ids: Collection[str] | None = None) -> int:
    """Look at the budgets of these tenants and of their keys (None: of all); how many new alerts there are."""
    if tenant_ids is not None and not tenant_ids:
        return 0
    try:
        with session_scope(here.sessions) as session:
            new = record_alerts(session, spending(session, list_budgets(session, tenant_ids), now_ms()))
            names = owner_names(session, [(row.tenant_id, row.scope_id) for row in new])
            told = [_told(row, names) for row in new]
    except IntegrityError:  # another ledger worker has told of it in the same moment
        return 0
    for fields in told:
        log.warning("a budget's threshold is reached", **fields)
    return len(told)


def _told(alert: BudgetAlert, names: Mapping[str, str]) -> dict[str, str | int | None]:
    """An alert as it is logged: names for people, ids for who collects logs. `key` is None of a tenant's own budget."""
    of_key = alert.scope_id != alert.tenant_id
    return {
        "tenant": names.get(alert.tenant_id),
        "key": names.get(alert.scope_id) if of_key else None,
        "tenant_id": alert.tenant_id,
        "scope_id": alert.scope_id,
        "period": alert.period,
        "percent": alert.percent,
        "spent_nusd": alert.spent_nusd,
        "amount_nusd": alert.amount_nusd,
    }
