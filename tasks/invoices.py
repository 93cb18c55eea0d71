"""Months that are over: their invoices are stored once, and change no more."""

import structlog

from registry.db import session_scope
from registry.ids import now_ms
from registry.ops.invoices import close_months
from tasks.app import app
from tasks.runtime import Runtime, runtime

log = structlog.get_logger(__name__)


@app.task(name="ledger.close")  # type: ignore[untyped-decorator]
def close() -> None:
    """Store the invoices of months that are over."""
    close_all(runtime())


def close_all(here: Runtime) -> int:
    """Store the invoices that are due, so many a tick; how many."""
    with session_scope(here.sessions) as session:
        stored = close_months(session, now_ms())
    if stored:
        log.info("closed invoices", invoices=stored)
    return stored
