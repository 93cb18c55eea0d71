"""What is sent ends: called off, forgotten after a day, refused, or never taken; and no lock is held meanwhile."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from sqlalchemy import text
from support.control_bench import serving

from orchestrator.why import Why, WhyCode
from registry.db import session_scope
from registry.models import Node


def is_free(engine):
    """Whether another controller could write right now."""
    from tasks.control import CONTROL_LOCK

    if engine.dialect.name == "postgresql":
        with engine.connect() as other:
            return other.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": CONTROL_LOCK})
    with closing(sqlite3.connect(engine.url.database, timeout=0)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True


def test_the_database_is_free_while_effects_are_sent(bench, monkeypatch):
    from tasks import control

    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    send, free = control.app.send_task, []

    def send_and_look(*args, **options):
        free.append(is_free(bench.here.sessions.kw["bind"]))
        send(*args, **options)

    monkeypatch.setattr(control.app, "send_task", send_and_look)
    bench.run()
    assert free == [True, True]


def test_effects_of_a_group_that_failed_on_a_lost_node_are_not_sent_again(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    (group,) = bench.groups()
    lost = group.stages[0].node_name
    bench.messages(f"node.{lost}")
    with session_scope(bench.here.sessions) as session:
        session.get_one(Node, lost).seen_at_ms -= 21_000
    bench.gateway.activity("m")
    bench.run()
    assert bench.states() == ["failed"]
    assert bench.outbox(undone=True) == []
    bench.age_outbox(11_000)
    bench.run()
    assert bench.messages(f"node.{lost}") == []


def test_a_group_keeps_the_reason_why_it_ended(bench):
    serving(bench)
    bench.gateway.activity("m")
    bench.change_model(enabled=False)
    bench.settle()
    (group,) = bench.groups()
    assert (group.state, group.reason) == ("stopped", "no longer wanted: its model is disabled")
    assert Why.from_json(group.why) == Why(WhyCode.MODEL_DISABLED)


def test_a_node_that_reports_and_takes_nothing_fails_the_start_and_is_named(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    (group,) = bench.groups()
    deaf = group.stages[0].node_name
    for _ in range(6):
        bench.messages(f"node.{deaf}")
        bench.age_outbox(10_001)
        bench.report()
        bench.run()
    assert bench.states() == ["starting"], "sent for the seventh time, a minute after the first"
    bench.gateway.activity("m")
    bench.age_outbox(10_001)
    bench.run()
    failed = bench.groups()[0]
    assert failed.state == "failed"
    assert f"the node worker of {deaf}" in failed.reason
    assert Why.from_json(failed.why) == Why(WhyCode.NODE_TAKES_NOTHING, {"rank": 0, "node": deaf})


def test_the_outbox_forgets_what_is_a_day_old(bench):
    serving(bench)
    from tasks import control

    control.reconcile_now()
    kept = len(bench.outbox())
    assert kept > 0
    bench.age_outbox(24 * 3_600_000 - 60_000)
    control.reconcile_now()
    assert len(bench.outbox()) == kept
    bench.age_outbox(61_000)
    control.reconcile_now()
    assert bench.outbox() == []


def test_a_group_that_its_node_knows_at_a_higher_version_can_be_stopped(bench):
    """SQL was restored from a backup: the node has seen versions that SQL has not given out."""
    group = serving(bench)
    node = bench.nodes[group.stages[0].node_name]
    node._versions[group.id] = 50
    node._stages[group.stages[0].id]["version"] = 50
    bench.gateway.activity("m")
    bench.change_model(enabled=False)
    bench.settle()
    assert bench.states() == ["stopped"]
    assert node.stages("ready") == []
