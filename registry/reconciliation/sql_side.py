"""What SQL says of itself: usage, ledger, prices, cold starts' shares. Each check is one statement, so one moment."""

from collections.abc import Iterator

from sqlalchemy import and_, case, exists, func, or_, select
from sqlalchemy.orm import Session

from registry.models import ColdStartShare, Invoice, LedgerEntry, Price, RejectedUsage, Usage
from registry.ops.money import usd
from registry.reconciliation.difference import Difference

_SHARE = (ColdStartShare.cold_start_id, ColdStartShare.tenant_id, ColdStartShare.cost_nusd)
MOST = 100
"""So many of one kind are told at most."""


def differences(session: Session, since_ms: int | None) -> Iterator[Difference]:
    """All differences within SQL, of what was written at or after `since_ms` (None: ever)."""
    begin = 0 if since_ms is None else since_ms
    yield from _usage_not_charged(session, begin)
    yield from _charge_without_usage(session, begin)
    yield from _charge_differs(session, begin)
    yield from _cost_differs(session, begin)
    yield from _cold_start_charge_differs(session, begin)
    yield from _not_billed(session)
    if since_ms is None:
        yield from _invoice_differs(session)


def _usage_not_charged(session: Session, begin: int) -> Iterator[Difference]:
    charged = exists().where(LedgerEntry.attempt_id == Usage.attempt_id, LedgerEntry.kind == "settle")
    query = select(Usage.attempt_id, Usage.cost_nusd).where(Usage.ended_at_ms >= begin, ~charged)
    for attempt_id, cost in session.execute(query.limit(MOST)):
        told = f"attempt {attempt_id} is in the usage with {usd(cost)}, and the ledger has no charge for it"
        yield Difference("usage_not_charged", attempt_id, "", told)


def _charge_without_usage(session: Session, begin: int) -> Iterator[Difference]:
    used = exists().where(Usage.attempt_id == LedgerEntry.attempt_id)
    query = select(LedgerEntry.id, LedgerEntry.attempt_id, LedgerEntry.amount_nusd).where(
        LedgerEntry.at_ms >= begin, LedgerEntry.attempt_id.is_not(None), ~used
    )
    for id_, attempt_id, amount in session.execute(query.limit(MOST)):
        told = f"ledger entry {id_} charges {usd(-amount)} for attempt {attempt_id}, of which there is no usage"
        yield Difference("charge_without_usage", str(attempt_id), str(id_), told)


def _charge_differs(session: Session, begin: int) -> Iterator[Difference]:
    charged = func.sum(LedgerEntry.amount_nusd)
    touched = select(LedgerEntry.attempt_id).where(LedgerEntry.at_ms >= begin, LedgerEntry.attempt_id.is_not(None))
    query = (
        select(Usage.attempt_id, Usage.cost_nusd, charged)
        .join(LedgerEntry, LedgerEntry.attempt_id == Usage.attempt_id)
        .group_by(Usage.attempt_id, Usage.cost_nusd)
        .having(charged != -Usage.cost_nusd)
    )
    if begin:
        query = query.where(Usage.attempt_id.in_(touched))
    for attempt_id, cost, amount in session.execute(query.limit(MOST)):
        told = f"attempt {attempt_id} has cost {usd(cost)}, and the ledger has charged {usd(-int(amount))} for it"
        yield Difference("charge_differs", attempt_id, f"{cost} {amount}", told)


def _cost_differs(session: Session, begin: int) -> Iterator[Difference]:
    nothing = and_(Usage.completion_tokens == 0, Usage.outcome != "ok")
    by_price = case(
        (nothing, 0),
        else_=(Usage.prompt_tokens - Usage.cached_tokens) * Price.input_nusd
        + Usage.cached_tokens * Price.cached_input_nusd
        + Usage.completion_tokens * Price.output_nusd
        + Price.request_nusd,
    )
    query = (
        select(Usage.attempt_id, Usage.cost_nusd, by_price)
        .join(Price, Price.id == Usage.price_id)
        .where(Usage.ended_at_ms >= begin, Usage.cost_nusd != by_price)
    )
    for attempt_id, cost, wanted in session.execute(query.limit(MOST)):
        told = f"attempt {attempt_id} has cost {usd(cost)}, and its tokens cost {usd(wanted)} at its price"
        yield Difference("cost_differs", attempt_id, f"{cost} {wanted}", told)


def _cold_start_charge_differs(session: Session, begin: int) -> Iterator[Difference]:
    same = and_(
        LedgerEntry.cold_start_id == ColdStartShare.cold_start_id, LedgerEntry.tenant_id == ColdStartShare.tenant_id
    )
    owed = (
        select(*_SHARE, LedgerEntry.amount_nusd)
        .outerjoin(LedgerEntry, same)
        .where(
            ColdStartShare.at_ms >= begin,
            ColdStartShare.charged.is_(True),
            or_(LedgerEntry.id.is_(None), LedgerEntry.amount_nusd != -ColdStartShare.cost_nusd),
        )
    )
    for start, tenant, cost, amount in session.execute(owed.limit(MOST)):
        charged = "nothing" if amount is None else usd(-amount)
        told = f"tenant {tenant} owes {usd(cost)} of cold start {start}, and the ledger has charged {charged}"
        yield Difference("cold_start_charge_differs", f"{start} {tenant}", f"{cost} {amount}", told)
    shared = exists().where(same, ColdStartShare.charged.is_(True))
    paid = select(LedgerEntry.cold_start_id, LedgerEntry.tenant_id, LedgerEntry.amount_nusd).where(
        LedgerEntry.at_ms >= begin, LedgerEntry.cold_start_id.is_not(None), ~shared
    )
    for paid_start, payer, amount in session.execute(paid.limit(MOST)):
        told = f"tenant {payer} was charged {usd(-amount)} for cold start {paid_start} without a share to pay"
        yield Difference("cold_start_charge_differs", f"{paid_start} {payer}", str(amount), told)


def _not_billed(session: Session) -> Iterator[Difference]:
    query = select(RejectedUsage.digest, RejectedUsage.reason).where(RejectedUsage.resolved_at_ms.is_(None))
    for digest, reason in session.execute(query.order_by(RejectedUsage.at_ms).limit(MOST)):
        told = f"a usage event could not be billed ({reason}); see: hydrant usage rejected"
        yield Difference("not_billed", digest[:16], "", told)


def _invoice_differs(session: Session) -> Iterator[Difference]:
    """Each tenant's newest closed invoice: what was written into closed months afterwards is on none."""
    newest = select(Invoice.tenant_id, func.max(Invoice.month).label("month")).group_by(Invoice.tenant_id).subquery()
    query = select(Invoice).join(newest, and_(newest.c.tenant_id == Invoice.tenant_id, newest.c.month == Invoice.month))
    for row in session.scalars(query.order_by(Invoice.tenant_id)):
        total = session.scalar(
            select(func.sum(LedgerEntry.amount_nusd)).where(
                LedgerEntry.tenant_id == row.tenant_id, LedgerEntry.at_ms < row.document["until_ms"]
            )
        )
        closing, by_ledger = row.document["closing_nusd"], int(total or 0)
        if closing != by_ledger:
            told = (
                f"the closed invoice {row.month} of tenant {row.tenant_id} ends with {usd(closing)},"
                f" and the ledger had {usd(by_ledger)} then"
            )
            yield Difference("invoice_differs", f"{row.tenant_id} {row.month}", f"{closing} {by_ledger}", told)
