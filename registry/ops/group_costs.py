"""What groups have cost: the device time of each group's start and service, and who waited for the start.

A row is opened with its group, at the price and setting of that moment, so a later change of either moves nothing. The
ledger's worker completes it: the start when that is over, the split over those who waited when all of their attempts
are settled, the time of service when the group has stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session

from registry.device_time import busy_ms, cost_nusd, gpu_us, split
from registry.errors import NotFoundError
from registry.models import ColdStart, ColdStartShare, Device, Group, GroupCost, LedgerEntry, Model, Price, Stage, Usage
from registry.ops import prices

NOBODY_WAITS = "consolidation"
"""The cause of starts that replace a running pipeline: nobody's first token hangs on them."""
LATE_MS = 60_000
"""How long after a group's end the last of its usage may still come to SQL."""
SPLIT_AFTER_MS = 60_000
"""How long beyond the longest hold a start's split waits, so that each request that it served is known."""


@dataclass(frozen=True)
class Settled:
    """What one look has completed: how many starts it split, and the tenants whose balance that changed."""

    tenant_ids: frozenset[str]
    split: int


def open_cost(session: Session, group: Group, model: Model) -> None:
    """Open the row of a group that is being started; in the transaction that starts it."""
    assert group.cold_start_id is not None
    try:
        price_id = prices.price_at(session, model.id, group.created_at_ms).id
    except NotFoundError:
        price_id = None
    session.add(
        GroupCost(
            group_id=group.id,
            cold_start_id=group.cold_start_id,
            model_id=model.id,
            price_id=price_id,
            chargeable=model.charge_cold_starts,
            began_at_ms=group.created_at_ms,
        )
    )


def has_work(session: Session, now_ms: int, *, split_before_ms: int) -> bool:
    """Whether `complete` would find anything to do; reads only."""
    over = or_(Group.ready_at_ms.is_not(None), Group.stopped_at_ms.is_not(None))
    ready_by = and_(GroupCost.waited.is_(None), Group.ready_at_ms <= split_before_ms)
    ended = and_(GroupCost.waited.is_not(None), Group.stopped_at_ms <= now_ms - LATE_MS)
    query = _open().where(or_(and_(GroupCost.startup_gpu_us.is_(None), over), ready_by, ended)).limit(1)
    return session.execute(query).first() is not None


def complete(session: Session, now_ms: int, *, split_before_ms: int, awaited: Mapping[str, int]) -> Settled:
    """Complete what can be told by now of every open row.

    A start is split when it was ready by `split_before_ms` and no open attempt has waited for it. `awaited` has, by
    cold start that serves open attempts that were held, when (ms) the first began. The caller has read it before
    this transaction's first statement. It commits, and then publishes the balances of `tenant_ids`. A row is locked
    first: of two workers, one finds it done.
    """
    charged: set[str] = set()
    splits = 0
    rows = session.execute(_open().order_by(GroupCost.group_id).with_for_update(of=GroupCost)).all()
    for cost, group, start in rows:
        began_serving = group.ready_at_ms if group.ready_at_ms is not None else group.stopped_at_ms
        if began_serving is None:
            continue
        if cost.startup_gpu_us is None:
            cost.startup_gpu_us = gpu_us(began_serving - group.created_at_ms, _held(session, group.id))
            price = None if cost.price_id is None else session.get_one(Price, cost.price_id)
            cost.startup_nusd = 0 if price is None else cost_nusd(cost.startup_gpu_us, price.gpu_second_nusd)
        if cost.waited is None and _may_be_split(group, split_before_ms, awaited.get(start.id)):
            charged |= _split(session, cost, group, start, now_ms)
            splits += 1
        if cost.waited is not None and group.stopped_at_ms is not None and group.stopped_at_ms <= now_ms - LATE_MS:
            _close(session, cost, group, began_serving, group.stopped_at_ms, now_ms)
    session.flush()
    return Settled(frozenset(charged), splits)


def _may_be_split(group: Group, split_before_ms: int, first_open_ms: int | None) -> bool:
    ready = group.ready_at_ms
    if ready is None:  # it has failed, and served nobody
        return True
    return ready <= split_before_ms and (first_open_ms is None or first_open_ms >= ready)


def _open() -> Select[GroupCost, Group, ColdStart]:
    return (
        select(GroupCost, Group, ColdStart)
        .join(Group, Group.id == GroupCost.group_id)
        .join(ColdStart, ColdStart.id == GroupCost.cold_start_id)
        .where(GroupCost.closed_at_ms.is_(None))
    )


def _held(session: Session, group_id: str) -> Sequence[tuple[int, int | None]]:
    query = (
        select(Stage.reserved_bytes, Device.memory_bytes)
        .outerjoin(Device, and_(Device.node_name == Stage.node_name, Device.idx == Stage.device_idx))
        .where(Stage.group_id == group_id)
    )
    return [(reserved, memory) for reserved, memory in session.execute(query)]


def _split(session: Session, cost: GroupCost, group: Group, start: ColdStart, now_ms: int) -> set[str]:
    """Divide a start over the requests that waited for it; the tenants that pay."""
    requests = waited_for(session, group, start)
    cost.waited = sum(requests.values())
    if not requests:
        return set()
    assert cost.startup_gpu_us is not None
    assert cost.startup_nusd is not None
    times, amounts = split(cost.startup_gpu_us, requests), split(cost.startup_nusd, requests)
    model_name = session.scalar(select(Model.name).where(Model.id == cost.model_id))
    payers = {tenant_id for tenant_id in requests if cost.chargeable and amounts[tenant_id]}
    for tenant_id, count in sorted(requests.items()):
        session.add(
            ColdStartShare(
                cold_start_id=start.id,
                tenant_id=tenant_id,
                requests=count,
                gpu_us=times[tenant_id],
                cost_nusd=amounts[tenant_id],
                charged=tenant_id in payers,
                at_ms=now_ms,
            )
        )
        if tenant_id in payers:
            session.add(
                LedgerEntry(
                    tenant_id=tenant_id,
                    kind="settle",
                    amount_nusd=-amounts[tenant_id],
                    cold_start_id=start.id,
                    reason=f"cold start of {model_name}: {count} of {cost.waited} requests that waited for it",
                    at_ms=now_ms,
                )
            )
    return payers


def waited_for(session: Session, group: Group, start: ColdStart) -> dict[str, int]:
    """How many requests of each tenant waited for a start and were answered.

    A request waited for it when it was held, began before the worker was ready, and was served by that worker. One that
    failed, or whose client left before the first token, counts for nobody.
    """
    if group.ready_at_ms is None or start.cause == NOBODY_WAITS:
        return {}
    query = select(Usage.tenant_id, Usage.outcome, Usage.completion_tokens).where(
        Usage.group_id == group.id,
        Usage.cold_start_id == start.id,
        Usage.held_ms > 0,
        Usage.started_at_ms < group.ready_at_ms,
    )
    counts: dict[str, int] = {}
    for tenant_id, outcome, tokens in session.execute(query):
        if outcome == "ok" or (outcome == "client_closed" and tokens):
            counts[tenant_id] = counts.get(tenant_id, 0) + 1
    return counts


def _close(session: Session, cost: GroupCost, group: Group, began_ms: int, ended_ms: int, now_ms: int) -> None:
    """Note for how long the group served, and for how long it waited for requests."""
    runs = session.execute(
        select(Usage.started_at_ms + Usage.held_ms, Usage.ended_at_ms)
        .where(Usage.group_id == group.id)
        .order_by(Usage.started_at_ms + Usage.held_ms)
        .execution_options(yield_per=1000)
    )
    busy = busy_ms(((start, end) for start, end in runs), began_ms, ended_ms)
    held = _held(session, group.id)
    cost.busy_gpu_us, cost.idle_gpu_us = gpu_us(busy, held), gpu_us(ended_ms - began_ms - busy, held)
    cost.closed_at_ms = now_ms
