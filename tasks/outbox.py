"""Sends the outbox: effects leave after the commit that decided them, and are sent again until a node has answered."""

from collections.abc import Iterable, Sequence

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from registry.models import Outbox

RESEND_AFTER_MS = 10_000
GIVE_UP_AFTER_MS = 3_600_000
"""An effect for a node that has not answered for an hour: by then the group it belongs to has failed."""

STOP_AGAIN_MS = 60_000
"""A stop that its node has taken and that left something alive for this long is asked for again."""

UNHEARD_SENDS = 7
"""An effect sent so often is unanswered a minute after it was first sent."""

PRUNE_AFTER_MS = 24 * 3_600_000
PRUNE_AT_ONCE = 500

log = structlog.get_logger(__name__)


def stop_under_way(now_ms: int) -> ColumnElement[bool]:
    """Rows that are a stop on its way to its node, or taken by it a moment ago: none needs to be added to them."""
    on_its_way = and_(Outbox.done_at_ms.is_(None), Outbox.created_at_ms > now_ms - GIVE_UP_AFTER_MS)
    return and_(Outbox.kind == "stop", or_(on_its_way, Outbox.done_at_ms > now_ms - STOP_AGAIN_MS))


def unheard(session: Session, group_ids: Iterable[str]) -> dict[str, frozenset[str]]:
    """Group id -> the nodes that have not answered what was sent to start it, a minute after it was first sent."""
    rows = session.execute(
        select(Outbox.group_id, Outbox.queue).where(
            Outbox.group_id.in_(group_ids),
            Outbox.done_at_ms.is_(None),
            Outbox.kind.in_(["prefetch", "launch"]),
            Outbox.sends >= UNHEARD_SENDS,
        )
    )
    found: dict[str, set[str]] = {}
    for group_id, queue in rows:
        found.setdefault(group_id or "", set()).add(queue.removeprefix("node."))
    return {group_id: frozenset(nodes) for group_id, nodes in found.items()}


def prune_outbox(session: Session, now_ms: int) -> None:
    """Delete rows a day old, the oldest first and no more than a few at a time: they carry tensor lists and keys, and
    nothing reads them after an hour."""
    oldest = select(Outbox.id, Outbox.created_at_ms).order_by(Outbox.id).limit(PRUNE_AT_ONCE)
    old = [row_id for row_id, created_at_ms in session.execute(oldest) if created_at_ms < now_ms - PRUNE_AFTER_MS]
    if old:
        session.execute(delete(Outbox).where(Outbox.id.in_(old)).execution_options(synchronize_session=False))


def due_effects(session: Session, now_ms: int) -> Sequence[Outbox]:
    """What is unsent, and what was sent a while ago and not answered, oldest first."""
    return session.scalars(
        select(Outbox)
        .where(
            Outbox.done_at_ms.is_(None),
            Outbox.created_at_ms > now_ms - GIVE_UP_AFTER_MS,
            or_(Outbox.sent_at_ms.is_(None), Outbox.sent_at_ms < now_ms - RESEND_AFTER_MS),
        )
        .order_by(Outbox.id)
    ).all()


def send(app: Celery, due: Sequence[Outbox]) -> list[int]:
    """Send effects, outside any transaction: a broker may take its time. Returns the ids of those sent, which may be
    none while it is away; the next tick tries again."""
    sent: list[int] = []
    for row in due:
        try:
            app.send_task(row.task, args=[row.id, *row.args], queue=row.queue, expires=RESEND_AFTER_MS / 1000)
        except OperationalError as error:
            log.warning(
                "broker unreachable, effects wait in the outbox", waiting=len(due) - len(sent), error=str(error)
            )
            break
        sent.append(row.id)
    return sent


def mark_sent(session: Session, sent: Sequence[int], now_ms: int) -> None:
    """Note that effects were sent. Dying before this sends them again, which changes nothing."""
    for start in range(0, len(sent), 500):
        session.execute(
            update(Outbox)
            .where(Outbox.id.in_(sent[start : start + 500]))
            .values(sent_at_ms=now_ms, sends=Outbox.sends + 1)
            .execution_options(synchronize_session=False)
        )


def mark_done(session: Session, outbox_id: int, now_ms: int, error: str | None) -> Outbox | None:
    """A node has answered; an answer that comes twice, or for a row that was pruned, changes nothing."""
    row = session.get(Outbox, outbox_id)
    if row is not None and row.done_at_ms is None:
        row.done_at_ms, row.error = now_ms, error
    return row
