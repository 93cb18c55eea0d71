"""The ledger, newest entry first, of one kind when asked: a few top-ups among thousands of charges."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.models import LedgerEntry


def ledger_page(
    session: Session, *, tenant_id: str | None, kind: str | None, before: int | None, limit: int = 50
) -> tuple[Sequence[LedgerEntry], int | None]:
    """At most `limit` entries older than the id `before`, and the `before` of the next page (None at the end)."""
    query = select(LedgerEntry).order_by(LedgerEntry.id.desc()).limit(limit + 1)
    if tenant_id is not None:
        query = query.where(LedgerEntry.tenant_id == tenant_id)
    if kind is not None:
        query = query.where(LedgerEntry.kind == kind)
    if before is not None:
        query = query.where(LedgerEntry.id < before)
    entries = session.scalars(query).all()
    return entries[:limit], entries[limit - 1].id if len(entries) > limit else None
