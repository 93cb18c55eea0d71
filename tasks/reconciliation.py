"""The periodic comparison of the books: gateways' events, usage, ledger, balances and reservations.

The ledger's worker does one thing at a time, so it does not wait for the second look: a later tick takes it.
"""

import structlog

from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import Reconciliation
from registry.ops import reconciliations
from registry.reconciliation.look import CONFIRM_AFTER_MS, take_a_look
from tasks.app import app
from tasks.runtime import Runtime, runtime

EVERY_MS = 300_000
OVERLAP_MS = 3_600_000
"""A look goes so far behind the last one: usage may come to SQL long after it ended."""

log = structlog.get_logger(__name__)


@app.task(name="ledger.reconcile")  # type: ignore[untyped-decorator]
def reconcile() -> None:
    """Compare the books if it is time, or look again at what did not agree."""
    compare(runtime())


def compare(here: Runtime) -> Reconciliation | None:
    """Take the look that is due; the comparison that it completes, or None."""
    now = now_ms()
    with read_scope(here.sessions) as session:
        open_row, last = reconciliations.unconfirmed(session), reconciliations.last(session)
    if open_row is not None:
        if now - open_row.began_at_ms < CONFIRM_AFTER_MS:
            return None
        since_ms = open_row.since_ms
    elif last is not None and now - last.began_at_ms < EVERY_MS:
        return None
    else:
        since_ms = None if last is None else max(0, last.began_at_ms - OVERLAP_MS)
    with read_scope(here.sessions) as session:
        look = take_a_look(session, here.redis, now, since_ms)
    with session_scope(here.sessions) as session:
        if open_row is None:
            row = reconciliations.begin(session, look, now, since_ms)
        else:
            row = reconciliations.finish(session, open_row.id, look, now)
    if row.ended_at_ms is None:
        return None
    if row.differences:
        log.error("the books differ", differences=len(row.differences), **row.compared)
        for one in reconciliations.told(row)[:20]:
            log.error("a difference in the books", kind=one.kind, subject=one.subject, told=one.sentence)
    else:
        log.info("the books agree", differences=0, **row.compared)
    return row
