"""The audit trail: who changed what, when."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.ids import now_ms
from registry.models import Audit


def record(session: Session, actor: str, action: str, subject: str, **detail: Any) -> None:
    """Note a change in its own transaction. `detail` must be JSON and hold no secret."""
    session.add(Audit(at_ms=now_ms(), actor=actor, action=action, subject=subject, detail=detail))


def list_entries(
    session: Session, *, subject: str | None = None, before_id: int | None = None, limit: int = 100
) -> Sequence[Audit]:
    """The latest entries first; `before_id` (the last id of a page) gives the next page."""
    query = select(Audit).order_by(Audit.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(Audit.subject == subject)
    if before_id is not None:
        query = query.where(Audit.id < before_id)
    return session.scalars(query).all()
