"""What a request is counted in: the limits and budgets of its tenant, its key and its model. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gateway import rediskeys
from gateway.snapshot import Key, Limits, Model, Tenant


@dataclass(frozen=True, slots=True)
class LimitScope:
    """Something with limits on its requests. `kind` is what a person is told: tenant, key or model."""

    kind: str
    id_: str
    limits: Limits

    @property
    def slots_key(self) -> str:
        """The Redis key of its parallel slots."""
        return rediskeys.slots(self.kind, self.id_)

    @property
    def rate_key(self) -> str:
        """The prefix of the Redis keys of its counters."""
        return rediskeys.rate(self.kind, self.id_)


@dataclass(frozen=True, slots=True)
class BudgetScope:
    """A hard budget of a tenant or key: nano-dollars in each window of `period` (day, month, total)."""

    kind: str
    id_: str
    period: str
    amount_nusd: int


def limits_of(tenant: Tenant, key: Key, model: Model) -> tuple[LimitScope, ...]:
    """The limited ones of a request's scopes: what has no limit costs Redis nothing."""
    scopes = (
        LimitScope("tenant", tenant.tenant_id, tenant.limits),
        LimitScope("key", key.key_id, key.limits),
        LimitScope("model", model.model_id, model.limits),
    )
    return tuple(scope for scope in scopes if scope.limits != Limits(None, None, None))


def budgets_of(tenant: Tenant, key: Key) -> tuple[BudgetScope, ...]:
    """The hard budgets that a request must fit in."""
    owners = (("tenant", tenant.tenant_id, tenant.budgets), ("key", key.key_id, key.budgets))
    return tuple(
        BudgetScope(kind, id_, period, amount) for kind, id_, budgets in owners for period, amount in budgets.items()
    )
