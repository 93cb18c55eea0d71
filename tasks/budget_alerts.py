"""Tells when spending has reached a budget's threshold: a row in SQL and a line in the log, once in each window."""

from collections.abc import Collection

import structlog
from sqlalchemy.exc import IntegrityError

from registry.db import session_scope
from registry.ids import now_ms
from registry.ops.budgets import list_budgets, record_alerts, spending
from tasks.runtime import Runtime

log = structlog.get_logger(__name__)


def alert(here: Runtime, tenant_ids: Collection[str] | None = None) -> int:
    """Look at the budgets of these tenants and of their keys (None: of all); how many new alerts there are."""
    if tenant_ids is not None and not tenant_ids:
        return 0
    try:
        with session_scope(here.sessions) as session:
            new = record_alerts(session, spending(session, list_budgets(session, tenant_ids), now_ms()))
            told = [(row.scope_id, row.period, row.percent, row.spent_nusd, row.amount_nusd) for row in new]
    except IntegrityError:  # another ledger worker has told of it in the same moment
        return 0
    for scope_id, period, percent, spent, amount in told:
        log.warning(
            "a budget's threshold is reached",
            scope_id=scope_id, period=period, percent=percent, spent_nusd=spent, amount_nusd=amount,
        )  # fmt: skip
    return len(told)
