"""What the tenant pages show."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.models import ApiKey, Tenant, Usage
from registry.ops.money import balances_nusd

MONTH_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant with its balance, live keys, and what it spent in the last 30 days (nano-dollars)."""

    tenant: Tenant
    balance_nusd: int
    live_keys: int
    spent_nusd: int


def tenant_rows(session: Session, now_ms: int) -> list[TenantRow]:
    """All tenants by name."""
    balances = balances_nusd(session)
    live = (ApiKey.revoked_at_ms.is_(None)) & (ApiKey.expires_at_ms.is_(None) | (ApiKey.expires_at_ms > now_ms))
    key_counts = select(ApiKey.tenant_id, func.count()).where(live).group_by(ApiKey.tenant_id)
    spending = (
        select(Usage.tenant_id, func.sum(Usage.cost_nusd))
        .where(Usage.ended_at_ms > now_ms - MONTH_MS)
        .group_by(Usage.tenant_id)
    )
    keys = {tenant_id: int(count) for tenant_id, count in session.execute(key_counts)}
    spent = {tenant_id: int(total) for tenant_id, total in session.execute(spending)}
    tenants = session.scalars(select(Tenant).order_by(Tenant.name))
    return [TenantRow(t, balances.get(t.id, 0), keys.get(t.id, 0), spent.get(t.id, 0)) for t in tenants]
