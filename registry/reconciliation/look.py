"""One look at all the books."""

from dataclasses import dataclass

from redis import Redis
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.models import Budget, LedgerEntry, Usage
from registry.reconciliation import redis_side, sql_side
from registry.reconciliation.difference import Difference

CONFIRM_AFTER_MS = 10_000
"""A difference is told when a second look, so much later, sees it unchanged."""


@dataclass(frozen=True)
class Look:
    """What was compared, as counts, and what did not agree."""

    compared: dict[str, int]
    differences: list[Difference]


def take_a_look(session: Session, redis: Redis, now_ms: int, since_ms: int | None) -> Look:
    """Compare everything, or of SQL's rows only those written at or after `since_ms`.

    `session` is fresh: Redis is read before its first statement. Raises RedisError.
    """
    books = redis_side.read(redis)
    found = [*sql_side.differences(session, since_ms), *redis_side.differences(session, books, now_ms)]
    begin = 0 if since_ms is None else since_ms
    usage = select(func.count()).select_from(Usage).where(Usage.ended_at_ms >= begin)
    entries = select(func.count()).select_from(LedgerEntry).where(LedgerEntry.at_ms >= begin)
    compared = {
        "usage": int(session.scalar(usage) or 0),
        "ledger": int(session.scalar(entries) or 0),
        "balances": len(books.balances),
        "budgets": int(session.scalar(select(func.count()).select_from(Budget)) or 0),  # each has windows in Redis
        "open_attempts": len(books.attempts),
        "events": len(books.events),
    }
    return Look(compared, found)
