"""What came of comparing the books: the last result, and every one that found a difference."""

from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.models import Reconciliation
from registry.reconciliation.difference import Difference, confirmed
from registry.reconciliation.look import Look


def last(session: Session) -> Reconciliation | None:
    """The newest comparison that is complete."""
    query = select(Reconciliation).where(Reconciliation.ended_at_ms.is_not(None))
    return session.scalar(query.order_by(Reconciliation.id.desc()).limit(1))


def unconfirmed(session: Session) -> Reconciliation | None:
    """The newest comparison of which the second look is still to come."""
    query = select(Reconciliation).where(Reconciliation.ended_at_ms.is_(None))
    return session.scalar(query.order_by(Reconciliation.id.desc()).limit(1))


def told(row: Reconciliation) -> list[Difference]:
    """The differences of a stored comparison."""
    return [Difference.from_json(one) for one in row.differences]


def begin(session: Session, look: Look, now_ms: int, since_ms: int | None) -> Reconciliation:
    """Store a first look: complete when it saw no difference."""
    row = Reconciliation(began_at_ms=now_ms, since_ms=since_ms, compared=dict(look.compared))
    row.differences = [one.to_json() for one in look.differences]
    row.ended_at_ms = None if look.differences else now_ms
    session.add(row)
    session.flush()
    _forget(session, row)
    return row


def finish(session: Session, row_id: int, second: Look, now_ms: int) -> Reconciliation:
    """Complete a comparison by its second look: what both have seen just so stays."""
    row = session.get_one(Reconciliation, row_id)
    row.differences = [one.to_json() for one in confirmed(told(row), second.differences)]
    row.compared, row.ended_at_ms = dict(second.compared), now_ms
    session.flush()
    _forget(session, row)
    return row


def _forget(session: Session, row: Reconciliation) -> None:
    """Of those without a difference only the newest is kept, and of unfinished ones only the newest."""
    if row.ended_at_ms is None:
        gone: Collection[int] = session.scalars(
            select(Reconciliation.id).where(Reconciliation.ended_at_ms.is_(None), Reconciliation.id < row.id)
        ).all()
    else:
        older = select(Reconciliation).where(Reconciliation.id < row.id, Reconciliation.ended_at_ms.is_not(None))
        newest = session.scalars(older.order_by(Reconciliation.id.desc()).limit(20))
        gone = [one.id for one in newest if not one.differences]
    if gone:
        session.execute(delete(Reconciliation).where(Reconciliation.id.in_(gone)))
