"""Budgets by period: what a tenant or a key may spend in a day, a month or in total, and who was told of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.budget_windows import PERIODS, bounds_ms, field, window_at
from registry.errors import InvalidError, NotFoundError
from registry.ids import now_ms
from registry.models import ApiKey, Budget, BudgetAlert, ColdStartShare, Tenant, Usage
from registry.ops import audit, checks
from registry.ops.money import more_than_nothing

MAX_ALERTS = 10


@dataclass(frozen=True)
class Spending:
    """What was spent (nano-dollars) in one window of a budget: settled requests, a tenant's charges for cold starts.

    `ends_at_ms` is None for a total."""

    budget: Budget
    window: int
    spent_nusd: int
    ends_at_ms: int | None

    @property
    def percent(self) -> int:
        """Whole percents of the amount, rounded down."""
        return self.spent_nusd * 100 // self.budget.amount_nusd


def set_budget(
    session: Session,
    actor: str,
    scope_id: str,
    period: str,
    *,
    amount_nusd: int,
    alert_percent: Sequence[int] = (80,),
    hard: bool = True,
) -> Budget:
    """Set the one budget of a tenant or key (by id) for a period, or change it.

    `hard`: requests that do not fit in are refused; otherwise it only alerts. `alert_percent`: at which parts of the
    amount an alert is recorded, once in each window. What was spent earlier in the present window counts.
    """
    if period not in PERIODS:
        raise InvalidError(f"period must be one of {', '.join(PERIODS)}", "period")
    more_than_nothing("amount", amount_nusd)
    if len(alert_percent) > MAX_ALERTS:
        raise InvalidError(f"alert_percent takes at most {MAX_ALERTS} thresholds", "alert_percent")
    percents = sorted({checks.integer("alert_percent", percent, low=1, high=100) for percent in alert_percent})
    tenant_id = _owner(session, scope_id)
    at_ms = now_ms()
    budget = session.get(Budget, (scope_id, period))
    if budget is None:
        budget = Budget(scope_id=scope_id, period=period, tenant_id=tenant_id, created_at_ms=at_ms)
        session.add(budget)
    budget.amount_nusd, budget.alert_percent, budget.hard, budget.updated_at_ms = amount_nusd, percents, hard, at_ms
    session.flush()
    detail = {"period": period, "amount_nusd": amount_nusd, "alert_percent": percents, "hard": hard}
    audit.record(session, actor, "budget.set", scope_id, **detail)
    return budget


def remove_budget(session: Session, actor: str, scope_id: str, period: str) -> Budget:
    """Take a budget away; its alerts stay. Raises NotFoundError."""
    budget = session.get(Budget, (scope_id, period))
    if budget is None:
        raise NotFoundError(f"{scope_id} has no budget for the period {period!r}", "period")
    session.delete(budget)
    session.flush()
    audit.record(session, actor, "budget.remove", scope_id, period=period)
    return budget


def copy_budgets(session: Session, old_key_id: str, new_key_id: str, at_ms: int) -> None:
    """Give a rotated key's successor the same budgets; what it spends is counted anew."""
    for budget in session.scalars(select(Budget).where(Budget.scope_id == old_key_id)):
        session.add(
            Budget(
                scope_id=new_key_id,
                period=budget.period,
                tenant_id=budget.tenant_id,
                amount_nusd=budget.amount_nusd,
                alert_percent=list(budget.alert_percent),
                hard=budget.hard,
                created_at_ms=at_ms,
                updated_at_ms=at_ms,
            )
        )


def list_budgets(session: Session, tenant_ids: Collection[str] | None = None) -> Sequence[Budget]:
    """Budgets of tenants and of their keys, of these tenants or of all."""
    query = select(Budget).order_by(Budget.tenant_id, Budget.scope_id, Budget.period)
    if tenant_ids is not None:
        query = query.where(Budget.tenant_id.in_(sorted(tenant_ids)))
    return session.scalars(query).all()


def spending(session: Session, budgets: Sequence[Budget], at_ms: int) -> list[Spending]:
    """What was spent of each in its window at `at_ms`."""
    spendings = []
    for budget in budgets:
        window = window_at(budget.period, at_ms)
        spendings.append(
            Spending(
                budget,
                window,
                spent_nusd(session, budget.tenant_id, budget.scope_id, budget.period, window),
                bounds_ms(budget.period, window)[1],
            )
        )
    return spendings


def fields_at(budgets: Sequence[Budget], at_ms: int) -> dict[str, tuple[Budget, int]]:
    """The Redis fields of each budget's window at `at_ms` and of the one after it, and which window that is."""
    found = {}
    for budget in budgets:
        now = window_at(budget.period, at_ms)
        for window in (now,) if budget.period == "total" else (now, now + 1):
            found[field(budget.scope_id, budget.period, window)] = (budget, window)
    return found


def spent_nusd(session: Session, tenant_id: str, scope_id: str, period: str, window: int) -> int:
    """What a tenant, or a key of it, has spent in a window: the settled costs of the requests that were admitted in it,
    and of a tenant (`scope_id` is its own id) what it was charged in it for cold starts, which are no key's."""
    of_tenant = scope_id == tenant_id
    owner = Usage.tenant_id if of_tenant else Usage.key_id
    total = _sum(session, Usage.cost_nusd, owner == scope_id, Usage.admitted_at_ms, period, window)
    if of_tenant:
        share = ColdStartShare
        paid = and_(share.tenant_id == tenant_id, share.charged)
        total += _sum(session, share.cost_nusd, paid, share.at_ms, period, window)
    return total


def _sum(
    session: Session,
    amount: InstrumentedAttribute[int],
    which: ColumnElement[bool],
    at_ms: InstrumentedAttribute[int] | InstrumentedAttribute[int | None],
    period: str,
    window: int,
) -> int:
    from_ms, until_ms = bounds_ms(period, window)
    query = select(func.sum(amount)).where(which, at_ms >= from_ms)
    if until_ms is not None:
        query = query.where(at_ms < until_ms)
    return int(session.scalar(query) or 0)


def record_alerts(session: Session, spendings: Sequence[Spending]) -> list[BudgetAlert]:
    """Note every threshold that is reached and was not noted in this window; the new alerts."""
    new = []
    for spent in spendings:
        budget = spent.budget
        reached = [percent for percent in budget.alert_percent if spent.percent >= percent]
        if not reached:
            continue
        known = session.scalars(
            select(BudgetAlert.percent).where(
                BudgetAlert.scope_id == budget.scope_id,
                BudgetAlert.period == budget.period,
                BudgetAlert.window == spent.window,
            )
        ).all()
        for percent in reached:
            if percent not in known:
                alert = BudgetAlert(
                    scope_id=budget.scope_id,
                    period=budget.period,
                    window=spent.window,
                    percent=percent,
                    tenant_id=budget.tenant_id,
                    spent_nusd=spent.spent_nusd,
                    amount_nusd=budget.amount_nusd,
                    at_ms=now_ms(),
                )
                session.add(alert)
                new.append(alert)
    session.flush()
    return new


def list_alerts(session: Session, *, tenant_id: str | None = None, limit: int = 20) -> Sequence[BudgetAlert]:
    """The latest alerts first, of one tenant (and its keys) or of all."""
    query = select(BudgetAlert).order_by(BudgetAlert.at_ms.desc(), BudgetAlert.percent.desc()).limit(limit)
    if tenant_id is not None:
        query = query.where(BudgetAlert.tenant_id == tenant_id)
    return session.scalars(query).all()


def owner_names(session: Session, owners: Collection[tuple[str, str]]) -> dict[str, str]:
    """What people call tenants and keys, by id; `owners`: (tenant, scope) of budgets or alerts."""
    if not owners:  # nearly always: the ledger asks after every batch
        return {}
    ids = sorted({id_ for owner in owners for id_ in owner})
    tenants = session.execute(select(Tenant.id, Tenant.name).where(Tenant.id.in_(ids)))
    keys = session.execute(select(ApiKey.id, ApiKey.name).where(ApiKey.id.in_(ids)))
    return {id_: name for found in (tenants, keys) for id_, name in found}


def _owner(session: Session, scope_id: str) -> str:
    """The tenant that a tenant's or key's id belongs to. Raises NotFoundError."""
    if session.get(Tenant, scope_id) is not None:
        return scope_id
    key = session.get(ApiKey, scope_id)
    if key is None:
        raise NotFoundError(f"there is no tenant or key {scope_id}", "scope_id")
    return key.tenant_id
