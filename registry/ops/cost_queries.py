"""Questions about device time and what starts have cost, for pages and the command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from registry.models import ColdStart, ColdStartShare, GroupCost, Model, Tenant
from registry.ops.usage import UsageFilter

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Share:
    """A tenant's share of one start."""

    tenant_id: str
    tenant: str
    requests: int
    gpu_us: int
    cost_nusd: int
    charged: bool


@dataclass(frozen=True)
class StartCost:
    """What one start has cost. `waited` is None until it is split; what nobody waited for is the model's alone."""

    startup_gpu_us: int | None
    startup_nusd: int | None
    waited: int | None
    busy_gpu_us: int | None
    idle_gpu_us: int | None
    shares: list[Share]


@dataclass(frozen=True)
class ModelTime:
    """Device time of a model's groups: of starts that are over, and of groups that have stopped."""

    starts: int
    startup_gpu_us: int
    startup_nusd: int
    busy_gpu_us: int
    idle_gpu_us: int


@dataclass(frozen=True)
class TenantWaits:
    """The starts of one model that a tenant has waited for, and its shares of them."""

    tenant_id: str
    model: str
    starts: int
    requests: int
    gpu_us: int
    cost_nusd: int
    charged_nusd: int


def start_cost(session: Session, cold_start_id: str) -> StartCost | None:
    """What a start has cost; None for one that was made before this was counted."""
    cost = session.scalar(select(GroupCost).where(GroupCost.cold_start_id == cold_start_id))
    if cost is None:
        return None
    rows = session.execute(
        select(ColdStartShare, Tenant.name)
        .join(Tenant, Tenant.id == ColdStartShare.tenant_id)
        .where(ColdStartShare.cold_start_id == cold_start_id)
        .order_by(ColdStartShare.cost_nusd.desc(), Tenant.name)
    )
    shares = [Share(row.tenant_id, name, row.requests, row.gpu_us, row.cost_nusd, row.charged) for row, name in rows]
    return StartCost(
        cost.startup_gpu_us, cost.startup_nusd, cost.waited, cost.busy_gpu_us, cost.idle_gpu_us, shares
    )  # fmt: skip


def model_time(session: Session, model_id: str, since_ms: int) -> ModelTime:
    """Device time of the model's groups that began at or after `since_ms`."""
    row = session.execute(
        select(
            func.count(GroupCost.startup_gpu_us),
            func.sum(GroupCost.startup_gpu_us),
            func.sum(GroupCost.startup_nusd),
            func.sum(GroupCost.busy_gpu_us),
            func.sum(GroupCost.idle_gpu_us),
        ).where(GroupCost.model_id == model_id, GroupCost.began_at_ms >= since_ms)
    ).one()
    return ModelTime(*(int(value or 0) for value in row))


def tenant_waits(session: Session, wanted: UsageFilter) -> Sequence[TenantWaits]:
    """Shares of starts by tenant and model, the dearest first; the filter's time is that at which they were split."""
    charged = func.sum(ColdStartShare.cost_nusd).filter(ColdStartShare.charged.is_(True))
    cost = func.sum(ColdStartShare.cost_nusd)
    query: Select[*tuple[Any, ...]] = (
        select(
            ColdStartShare.tenant_id,
            Model.name,
            func.count(),
            func.sum(ColdStartShare.requests),
            func.sum(ColdStartShare.gpu_us),
            cost,
            charged,
        )
        .join(ColdStart, ColdStart.id == ColdStartShare.cold_start_id)
        .join(Model, Model.id == ColdStart.model_id)
        .group_by(ColdStartShare.tenant_id, Model.id, Model.name)
        .order_by(cost.desc(), ColdStartShare.tenant_id, Model.name)
    )
    rows = session.execute(_restrict(query, wanted))
    return [TenantWaits(row[0], row[1], *(int(value or 0) for value in row[2:])) for row in rows]


def list_charges(session: Session, wanted: UsageFilter, limit: int) -> list[tuple[ColdStartShare, str]]:
    """Shares that were charged, each with its model's name, the latest first."""
    shares: Select[*tuple[Any, ...]] = select(ColdStartShare, Model.name)
    query = _charged(shares, wanted)
    query = query.order_by(ColdStartShare.at_ms.desc(), ColdStartShare.cold_start_id).limit(limit)
    return [(share, name) for share, name in session.execute(query)]


def charges_by_day(session: Session, wanted: UsageFilter) -> list[tuple[int, str, int]]:
    """(when the day begins, UTC, ms; model name; nano-dollars) for each that had charges, by day."""
    day = ColdStartShare.at_ms - ColdStartShare.at_ms % DAY_MS
    sums: Select[*tuple[Any, ...]] = select(day, Model.name, func.sum(ColdStartShare.cost_nusd))
    query = _charged(sums, wanted)
    rows = session.execute(query.group_by(day, Model.name).order_by(day, Model.name))
    return [(int(began), model, int(cost)) for began, model, cost in rows]


def _charged(query: Select[*tuple[Any, ...]], wanted: UsageFilter) -> Select[*tuple[Any, ...]]:
    query = query.select_from(ColdStartShare).join(ColdStart, ColdStart.id == ColdStartShare.cold_start_id)
    return _restrict(query.join(Model, Model.id == ColdStart.model_id).where(ColdStartShare.charged.is_(True)), wanted)


def _restrict(query: Select[*tuple[Any, ...]], wanted: UsageFilter) -> Select[*tuple[Any, ...]]:
    if wanted.tenant_id is not None:
        query = query.where(ColdStartShare.tenant_id == wanted.tenant_id)
    if wanted.model_id is not None:
        query = query.where(ColdStart.model_id == wanted.model_id)
    if wanted.from_ms is not None:
        query = query.where(ColdStartShare.at_ms >= wanted.from_ms)
    if wanted.until_ms is not None:
        query = query.where(ColdStartShare.at_ms < wanted.until_ms)
    return query
