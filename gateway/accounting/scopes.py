"""What a request is counted in: the limits and budgets of its tenant, its key and its model. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from gateway import rediskeys
from gateway.readmodel.snapshot import Key, Limits, Model, Snapshot, Tenant


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


@dataclass(frozen=True)
class Scopes:
    """All that a request is counted in, and how Redis is told so."""

    limits: tuple[LimitScope, ...] = ()
    budgets: tuple[BudgetScope, ...] = ()

    @cached_property
    def slot_keys(self) -> tuple[str, ...]:
        """The Redis keys of the parallel slots that it takes."""
        return tuple(scope.slots_key for scope in self.limits if scope.limits.parallel is not None)

    @cached_property
    def token_keys(self) -> tuple[str, ...]:
        """The prefixes of the Redis keys that count its tokens."""
        return tuple(scope.rate_key for scope in self.limits if scope.limits.tpm is not None)

    @cached_property
    def request_keys(self) -> tuple[str, ...]:
        """The prefixes of the Redis keys that count it."""
        return tuple(scope.rate_key for scope in self.limits if scope.limits.rpm is not None)

    @cached_property
    def admission_keys(self) -> tuple[str, ...]:
        """Of lua/admit.lua, those of the limited scopes."""
        return tuple(key for scope in self.limits for key in (scope.slots_key, scope.rate_key))

    @cached_property
    def admission_args(self) -> tuple[str | int, ...]:
        """Of lua/admit.lua, from the number of limited scopes on."""
        args: list[str | int] = [len(self.limits)]
        for scope in self.limits:
            limits = (scope.limits.rpm, scope.limits.tpm, scope.limits.parallel)
            args += (scope.kind, *(-1 if limit is None else limit for limit in limits))
        for budget in self.budgets:
            args += (budget.id_, budget.period, budget.amount_nusd)
        return tuple(args)


UNLIMITED = Scopes()


class ScopesOfSnapshot:
    """The scopes of each key and model: made once for a snapshot."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._known: dict[tuple[str, str], Scopes] = {}

    def find(self, snapshot: Snapshot, tenant: Tenant, key: Key, model: Model) -> Scopes:
        """What a request by this key for this model is counted in."""
        if snapshot is not self._snapshot:
            self._snapshot, self._known = snapshot, {}
        of = (key.key_id, model.model_id)
        if of not in self._known:
            self._known[of] = Scopes(_limits(tenant, key, model), _budgets(tenant, key))
        return self._known[of]


def _limits(tenant: Tenant, key: Key, model: Model) -> tuple[LimitScope, ...]:
    """The limited ones of a request's scopes: what has no limit costs Redis nothing."""
    scopes = (
        LimitScope("tenant", tenant.tenant_id, tenant.limits),
        LimitScope("key", key.key_id, key.limits),
        LimitScope("model", model.model_id, model.limits),
    )
    return tuple(scope for scope in scopes if scope.limits != Limits(None, None, None))


def _budgets(tenant: Tenant, key: Key) -> tuple[BudgetScope, ...]:
    """The hard budgets that a request must fit in."""
    owners = (("tenant", tenant.tenant_id, tenant.budgets), ("key", key.key_id, key.budgets))
    return tuple(
        BudgetScope(kind, id_, period, amount) for kind, id_, budgets in owners for period, amount in budgets.items()
    )
