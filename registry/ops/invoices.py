"""Invoices: a tenant's ledger of one month (UTC), by model and price, with everything else listed apart.

An entry belongs to the month of its own time, `at_ms`, which is when it was written and never earlier: usage that is
settled after a month's end is on the next invoice. So a month is complete shortly after its end; its invoice is then
stored, and never changes, although the usage of an attempt that was billed as lost may still be replaced later.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.orm import Session, aliased

from registry.errors import InvalidError
from registry.ids import now_ms as clock_ms
from registry.models import ColdStart, ColdStartShare, GroupCost, Invoice, LedgerEntry, Model, Price, Tenant, Usage
from registry.months import borders_ms, month_of, next_month
from registry.ops import tenants
from registry.ops.csv_text import csv_lines
from registry.ops.money import format_dollars, format_price_per_million
from registry.ops.usage import ANSWERED

CLOSING_MS = 600_000
"""How long after its end a month is still open: the longest that a transaction, and a clock, may be behind."""
_PRICES = ("input_nusd", "cached_input_nusd", "output_nusd", "request_nusd")
_COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
_PRICES_USD = ("input_usd_per_million", "cached_input_usd_per_million", "output_usd_per_million", "request_usd")
CSV_COLUMNS = (
    *("section", "at_ms", "model", "price_id", *_PRICES_USD, *_COUNTS, "cold_starts", "waited_requests", "gpu_us"),
    *("amount_nusd", "amount_usd", "attempt_id", "reason", "author", "invoice"),
)


def invoice(session: Session, tenant_id: str, month: str, now_ms: int | None = None) -> dict[str, Any]:
    """The invoice of a month as a JSON document: the stored one of a closed month, else as it stands now.

    Amounts are integer nano-dollars; what was charged, and corrections, credits and adjustments, add to the balance as
    they are (a charge is negative). `state` is `so far`, `closing` (over, and about to be stored) or `closed`.
    `number` names the invoice for ever: a tenant's name may change, and be another's later, but not its id.
    Raises InvalidError for what is no month, has not begun, or was over before the tenant was made, and NotFoundError.
    """
    tenant = tenants.get_tenant(session, tenant_id)
    begin, end = borders_ms(month)
    now = clock_ms() if now_ms is None else now_ms
    first = month_of(tenant.created_at_ms)
    if month < first:
        raise InvalidError(f"{tenant.name} was made in {first}; choose a month from then on", "month")
    if begin > now:
        raise InvalidError(f"{month} has not begun yet; choose a month up to {month_of(now)} (UTC)", "month")
    stored = session.get(Invoice, (tenant_id, month))
    if stored is not None:
        document = stored.document
    else:
        document = _document(session, tenant, month, "so far" if now < end else "closing", min(now, end))
    return {"number": f"{tenant_id}-{month}", **document}


def months(session: Session, tenant_id: str, now_ms: int) -> list[str]:
    """The months of which a tenant can have an invoice, the latest first: from its making to now."""
    month, found = month_of(tenants.get_tenant(session, tenant_id).created_at_ms), list[str]()
    while borders_ms(month)[0] <= now_ms:
        found.append(month)
        month = next_month(month)
    return found[::-1]


def close_months(session: Session, now_ms: int, *, most: int = 50) -> int:
    """Store invoices of months that are over, the oldest first of each tenant; how many, at most `most`."""
    complete = month_of(now_ms - CLOSING_MS)  # the month that is not complete; those before are
    newest = dict(session.execute(select(Invoice.tenant_id, func.max(Invoice.month)).group_by(Invoice.tenant_id)).all())
    stored = 0
    for tenant in session.scalars(select(Tenant).order_by(Tenant.id)):
        done = newest.get(tenant.id)
        month = month_of(tenant.created_at_ms) if done is None else next_month(done)
        while month < complete and stored < most:
            # Of two workers the second finds it stored: its transaction ends by the primary key, and changes nothing.
            document = _document(session, tenant, month, "closed", borders_ms(month)[1])
            session.add(Invoice(tenant_id=tenant.id, month=month, document=document, closed_at_ms=now_ms))
            session.flush()
            stored += 1
            month = next_month(month)
    return stored


def to_csv(document: Mapping[str, Any]) -> str:
    """The invoice as CSV text: a row for each line; the amounts of all rows but the last sum to the closing balance."""
    rows = [{"section": "opening balance", "amount_nusd": document["opening_nusd"]}]
    for section in ("usage", "cold_starts", "corrections", "credits", "adjustments"):
        rows += [{**line, **_in_dollars(line), "section": section.replace("_", " ")} for line in document[section]]
    rows.append({"section": "closing balance", "amount_nusd": document["closing_nusd"]})
    for row in rows:
        row |= {"amount_usd": format_dollars(row["amount_nusd"]), "invoice": document["number"]}
    return csv_lines([CSV_COLUMNS, *([row.get(column) for column in CSV_COLUMNS] for row in rows)])


def _in_dollars(line: Mapping[str, Any]) -> dict[str, str]:
    """The prices of a line of usage as people read them."""
    price = line.get("price")
    if price is None:
        return {}
    *per_token, request = (price[name] for name in _PRICES)
    texts = (*map(format_price_per_million, per_token), format_dollars(request))
    return dict(zip(_PRICES_USD, texts, strict=True))


def _document(session: Session, tenant: Tenant, month: str, state: str, as_of_ms: int) -> dict[str, Any]:
    begin, end = borders_ms(month)
    mine = and_(LedgerEntry.tenant_id == tenant.id, LedgerEntry.at_ms >= begin, LedgerEntry.at_ms < end)
    opening = session.scalar(
        select(func.sum(LedgerEntry.amount_nusd)).where(LedgerEntry.tenant_id == tenant.id, LedgerEntry.at_ms < begin)
    )
    sections: dict[str, list[dict[str, Any]]] = {
        "usage": _usage_lines(session, mine),
        "cold_starts": _cold_start_lines(session, mine),
        **_others(session, mine, begin, end),
    }
    totals = {name: sum(line["amount_nusd"] for line in lines) for name, lines in sections.items()}
    return {
        "tenant_id": tenant.id,
        "tenant": tenant.name,
        "month": month,
        "zone": "UTC",
        "from_ms": begin,
        "until_ms": end,
        "state": state,
        "as_of_ms": as_of_ms,
        "opening_nusd": int(opening or 0),
        **sections,
        "totals_nusd": totals,
        "closing_nusd": int(opening or 0) + sum(totals.values()),
    }


def _usage_lines(session: Session, mine: Any) -> list[dict[str, Any]]:
    """Attempts settled in the month by model and price, in one statement: tokens, and what was charged for them."""
    charged = (
        select(
            LedgerEntry.attempt_id,
            func.sum(LedgerEntry.amount_nusd).label("amount"),
            func.max(case((LedgerEntry.kind == "settle", 1), else_=0)).label("settled"),
        )
        .where(mine, LedgerEntry.attempt_id.is_not(None))
        .group_by(LedgerEntry.attempt_id)
        .subquery()
    )

    def total(column: Any) -> Any:
        return func.sum(case((ANSWERED, column), else_=0))

    query = (
        select(
            Usage.model_name,
            Usage.price_id,
            func.sum(charged.c.amount),
            total(1),
            total(Usage.prompt_tokens),
            total(Usage.cached_tokens),
            total(Usage.completion_tokens),
        )
        .join(charged, charged.c.attempt_id == Usage.attempt_id)
        .where(charged.c.settled == 1)
        .group_by(Usage.model_name, Usage.price_id)
        .order_by(Usage.model_name, Usage.price_id)
    )
    lines = []
    for model, price_id, amount, *counts in session.execute(query).all():
        if not amount and not any(counts):
            continue  # tried, and not answered: nothing was sold
        price = None if price_id is None else session.get(Price, price_id)
        lines.append(
            {
                "model": model,
                "price_id": price_id,
                "price": None if price is None else {name: getattr(price, name) for name in _PRICES},
                **dict(zip(_COUNTS, map(int, counts), strict=True)),
                "amount_nusd": int(amount),
            }
        )
    return lines


def _cold_start_lines(session: Session, mine: Any) -> list[dict[str, Any]]:
    """Charges for cold starts by model and price."""
    query = (
        select(Model.name, GroupCost.price_id, LedgerEntry.amount_nusd, ColdStartShare.requests, ColdStartShare.gpu_us)
        .select_from(LedgerEntry)
        .outerjoin(ColdStart, ColdStart.id == LedgerEntry.cold_start_id)
        .outerjoin(Model, Model.id == ColdStart.model_id)
        .outerjoin(GroupCost, GroupCost.cold_start_id == LedgerEntry.cold_start_id)
        .outerjoin(
            ColdStartShare,
            and_(
                ColdStartShare.cold_start_id == LedgerEntry.cold_start_id,
                ColdStartShare.tenant_id == LedgerEntry.tenant_id,
            ),
        )
        .where(mine, LedgerEntry.cold_start_id.is_not(None))
    )
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for model, price_id, amount, requests, time in session.execute(query):
        line = sums[model or "", price_id or ""]
        for at, value in enumerate((1, requests or 0, time or 0, amount)):
            line[at] += value
    names = ("cold_starts", "waited_requests", "gpu_us", "amount_nusd")
    return [
        {"model": model, "price_id": price_id, **dict(zip(names, line, strict=True))}
        for (model, price_id), line in sorted(sums.items())
    ]


def _others(session: Session, mine: Any, begin: int, end: int) -> dict[str, list[dict[str, Any]]]:
    """Credits, adjustments by people, and corrections of attempts that were settled in an earlier month."""
    settled = aliased(LedgerEntry)
    here = (
        select(settled.id)
        .join(Usage, Usage.attempt_id == settled.attempt_id)
        .where(
            settled.attempt_id == LedgerEntry.attempt_id,
            settled.kind == "settle",
            settled.at_ms >= begin,
            settled.at_ms < end,
        )
        .exists()
    )
    query = (
        select(LedgerEntry)
        .where(mine, LedgerEntry.cold_start_id.is_(None), or_(LedgerEntry.attempt_id.is_(None), ~here))
        .order_by(LedgerEntry.id)
    )
    found: dict[str, list[dict[str, Any]]] = {"corrections": [], "credits": [], "adjustments": []}
    for row in session.scalars(query):
        section = "corrections" if row.attempt_id else "credits" if row.kind == "top_up" else "adjustments"
        found[section].append(
            {
                "at_ms": row.at_ms,
                "amount_nusd": row.amount_nusd,
                "attempt_id": row.attempt_id,
                "reason": row.reason,
                "author": row.author,
            }
        )
    return found
