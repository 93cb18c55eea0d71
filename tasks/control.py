"""The controller's tasks. Each message is a hint that something may have changed; all end in the same reconcile."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from orchestrator.control import ControlState, Decision
from orchestrator.lifecycle import OVER
from orchestrator.policies import POLICIES
from orchestrator.reconcile import reconcile
from registry.db import session_scope
from registry.ids import now_ms
from registry.models import Group
from tasks import routes
from tasks.app import app
from tasks.apply import apply
from tasks.demand import is_known, read_demand
from tasks.failpoints import reach
from tasks.learning import study
from tasks.outbox import due_effects, mark_done, mark_sent, prune_outbox, send
from tasks.reports import note_stopped, store_report
from tasks.runtime import Runtime, runtime
from tasks.speed import study_use
from tasks.state import load_and_note
from tasks.tracing import provider
from tasks.watch import CONTROLLER, look

CONTROL_LOCK = 0x6879_6463
"""Any number that no other advisory lock in the database has."""
PASSES = 20
"""Bounds one task's work; what is left is taken up by the next tick."""

log = structlog.get_logger(__name__)


@app.task(name="control.scale")  # type: ignore[untyped-decorator]
def scale(model: str) -> None:
    """A gateway holds the first request for a cold model."""
    run(runtime())


@app.task(name="control.reconcile")  # type: ignore[untyped-decorator]
def reconcile_now() -> None:
    """The clock's tick, or a change in the admin UI or CLI."""
    here = runtime()
    run(here)
    with alone(here) as session:
        prune_outbox(session, now_ms())
    with alone(here) as session:
        study(session, now_ms(), provider())
    with alone(here) as session:
        study_use(session, now_ms())


@app.task(name="control.node_report")  # type: ignore[untyped-decorator]
def node_report(node_name: str, report: dict[str, Any]) -> None:
    """A node says how it is."""
    here = runtime()
    with alone(here) as session:
        news = store_report(session, report, now_ms())
    reach("control.reported")
    # A sign of life alone is not worth a look at everything: the clock's next tick has one.
    if news:
        run(here)


@app.task(name="control.applied")  # type: ignore[untyped-decorator]
def applied(outbox_id: int, error: str | None, refused: bool) -> None:
    """A node has answered an effect; one that it refused as bad fails the group's start at once."""
    here = runtime()
    stopped = False
    with alone(here) as session:
        row = mark_done(session, outbox_id, now_ms(), error)
        if row is not None and row.kind == "stop" and not refused:
            stopped = note_stopped(session, row)
        if row is not None and refused and row.group_id is not None:
            group = session.get(Group, row.group_id)
            if group is not None and group.state not in OVER:
                # Expressed as a probe that failed: the one way in which a start is told why it cannot serve.
                group.probe = {"ok": False, "error": f"{row.kind} was refused by {row.queue}: {error}"}
    if refused or stopped:
        run(here)


def run(here: Runtime) -> None:
    """Decide and act until nothing more needs to change, telling gateways after each step."""
    policy = replace(POLICIES[here.settings.policy], idle_percent=here.settings.idle_memory_percent)
    for _ in range(PASSES):
        now = now_ms()
        demand = read_demand(here.redis, now)
        with alone(here) as session:
            # Here, so that one who cannot reach the database, and stores no reports, does not look either.
            watching = look(here.redis, CONTROLLER, now)
            demand.known = is_known(watching, now)
            state = load_and_note(session, demand, now, watching, here.facts, here.settings.store_bps)
            decisions = reconcile(state, policy)
            changed = apply(session, decisions, now, {name: one.traceparent for name, one in demand.models.items()})
        reach("control.decided")
        _tell(here, state, decisions)
        if not changed:
            return
    log.warning("more to do than one task may; the next tick goes on", passes=PASSES)


@contextmanager
def alone(here: Runtime) -> Iterator[Session]:
    """A transaction that no other controller's overlaps: memory, links and routes are shared by all models, so a
    version of each row would not keep two controllers from giving the same memory away twice.

    SQLite's transactions exclude each other anyway.
    """
    with session_scope(here.sessions) as session:
        session.connection()  # SQLite's lock is taken here and not with the first query
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": CONTROL_LOCK})
        yield session


def _tell(here: Runtime, state: ControlState, decisions: list[Decision]) -> None:
    """Routes, cold starts and effects, as SQL has them after the commit."""
    with alone(here) as session:
        version = routes.publish_routes(here.redis, routes.route_table(session), state.now_ms)
        routes.mark_unrouted(session, version)
        routes.publish_cold_starts(here.redis, routes.cold_starts(session, state, decisions), version)
        due = due_effects(session, now_ms())
    sent = send(app, due)
    reach("control.sent")
    if sent:
        with alone(here) as session:
            mark_sent(session, sent, now_ms())
