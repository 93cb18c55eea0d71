"""Balances: top-ups, adjustments, and exact conversion between dollars and nano-dollars."""

from decimal import Decimal, InvalidOperation

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.errors import InvalidError
from registry.ids import now_ms
from registry.models import LedgerEntry
from registry.ops import audit, checks, tenants

NUSD_PER_USD = 1_000_000_000
_MILLION = 1_000_000


def top_up(session: Session, actor: str, tenant_id: str, amount_nusd: int, reason: str) -> LedgerEntry:
    """Credit a tenant with `amount_nusd` (> 0)."""
    more_than_nothing("amount", amount_nusd)
    return _enter(session, actor, tenant_id, "top_up", amount_nusd, reason)


def adjust(session: Session, actor: str, tenant_id: str, amount_nusd: int, reason: str) -> LedgerEntry:
    """Correct a balance up or down by `amount_nusd` (not 0); the reason is kept for ever."""
    if _possible("amount", amount_nusd) == 0:
        raise InvalidError("amount must not be zero", "amount")
    return _enter(session, actor, tenant_id, "adjust", amount_nusd, reason)


def more_than_nothing(field: str, amount_nusd: object) -> int:
    """`amount_nusd`, if it is an amount above 0. Raises InvalidError, which speaks of dollars."""
    amount = _possible(field, amount_nusd)
    if amount <= 0:
        raise InvalidError(f"{field} must be more than {usd(0)}", field)
    return amount


def balance_nusd(session: Session, tenant_id: str) -> int:
    """The settled balance: the sum of the tenant's ledger."""
    total = session.scalar(select(func.sum(LedgerEntry.amount_nusd)).where(LedgerEntry.tenant_id == tenant_id))
    return int(total or 0)


def balances_nusd(session: Session) -> dict[str, int]:
    """The settled balance of every tenant that has a ledger entry."""
    rows = session.execute(
        select(LedgerEntry.tenant_id, func.sum(LedgerEntry.amount_nusd)).group_by(LedgerEntry.tenant_id)
    )
    return {tenant_id: int(total) for tenant_id, total in rows}


def parse_dollars(text: str, field: str = "amount") -> int:
    """Nano-dollars in a decimal string such as "12.50" or "$0.000000020". Raises InvalidError; never rounds."""
    cleaned = text.strip().removeprefix("$").replace("_", "")
    try:
        amount = Decimal(cleaned)
    except InvalidOperation:
        raise InvalidError(f"{field} must be an amount in dollars, such as 12.50", field) from None
    if not amount.is_finite():
        raise InvalidError(f"{field} is not a possible amount of dollars", field)
    if abs(amount) > checks.MAX_AMOUNT // NUSD_PER_USD:
        raise _beyond(field, negative=amount < 0)
    scaled = amount.scaleb(9)
    if scaled != scaled.to_integral_value():
        raise InvalidError(f"{field} is finer than a nano-dollar; use at most 9 decimals", field)
    return int(scaled)


def format_dollars(amount_nusd: int) -> str:
    """Dollars as an exact decimal string: at least 2 decimals, no more than needed, and no exponent: "-0.00000002"."""
    whole, fraction = divmod(abs(amount_nusd), NUSD_PER_USD)
    digits = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount_nusd < 0 else ''}{whole}.{digits}"


def usd(amount_nusd: int) -> str:
    """The same as people write it: "$20.00", "-$3.10"."""
    return f"{'-' if amount_nusd < 0 else ''}${format_dollars(abs(amount_nusd))}"


def parse_price_per_million(text: str, field: str = "price") -> int:
    """Nano-dollars per token in a price given, as is usual, in dollars per million tokens: "0.02" is 20."""
    per_million = parse_dollars(text, field)
    per_token, rest = divmod(per_million, _MILLION)
    if per_million < 0:
        raise InvalidError(f"{field} must not be negative", field)
    if rest:
        raise InvalidError(f"{field} must be a multiple of $0.001 per million tokens (a nano-dollar a token)", field)
    return per_token


def format_price_per_million(nusd_per_token: int) -> str:
    """Dollars per million tokens: 20 is "0.02"."""
    return format_dollars(nusd_per_token * _MILLION)


def _possible(field: str, amount_nusd: object) -> int:
    if isinstance(amount_nusd, bool) or not isinstance(amount_nusd, int):
        raise InvalidError(f"{field} must be a whole number of nano-dollars", field)
    if abs(amount_nusd) > checks.MAX_AMOUNT:
        raise _beyond(field, negative=amount_nusd < 0)
    return amount_nusd


def _beyond(field: str, *, negative: bool) -> InvalidError:
    bound = f"at least {usd(-checks.MAX_AMOUNT)}" if negative else f"at most {usd(checks.MAX_AMOUNT)}"
    return InvalidError(f"{field} must be {bound}", field)


def _enter(session: Session, actor: str, tenant_id: str, kind: str, amount_nusd: int, reason: str) -> LedgerEntry:
    tenant = tenants.get_tenant(session, tenant_id)
    entry = LedgerEntry(
        tenant_id=tenant.id,
        kind=kind,
        amount_nusd=amount_nusd,
        reason=checks.text("reason", reason, limit=500),
        author=actor,
        at_ms=now_ms(),
    )
    session.add(entry)
    session.flush()
    audit.record(session, actor, f"money.{kind}", tenant.id, amount_nusd=amount_nusd, reason=entry.reason)
    return entry
