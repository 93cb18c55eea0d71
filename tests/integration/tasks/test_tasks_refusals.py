"""Starts that cannot be planned, as cold starts that failed."""

from __future__ import annotations

from sqlalchemy import select
from support.control_bench import serving

from registry.db import session_scope
from registry.models import ColdStart, Node


def cordon(bench, cordoned=True):
    with session_scope(bench.here.sessions) as session:
        for node in session.scalars(select(Node)):
            node.cordoned = cordoned


def cold_starts(bench):
    with bench.here.sessions() as session:
        return list(session.scalars(select(ColdStart).order_by(ColdStart.requested_at_ms, ColdStart.id)))


def test_a_start_that_cannot_be_planned_is_one_failed_cold_start_with_its_reason(bench):
    bench.add_model()
    cordon(bench)
    for _ in range(3):
        bench.gateway.activity("m", waiting=1)
        bench.run()
        bench.gateway.activity("m")  # told, so the client has gone; the next one is told the same
        bench.run()
    (cold_start,) = cold_starts(bench)
    assert cold_start.failed_at_ms >= cold_start.requested_at_ms
    assert cold_start.ready_at_ms is None
    assert cold_start.cause == "demand"
    assert cold_start.reason.startswith("No node that reports can take anything")
    with session_scope(bench.here.sessions) as session:
        row = session.get_one(ColdStart, cold_start.id)
        row.requested_at_ms -= 120_000
        row.failed_at_ms -= 120_000
    bench.gateway.activity("m", waiting=1)
    bench.run()
    assert len(cold_starts(bench)) == 2, "refused again, long after"
    cordon(bench, cordoned=False)
    bench.settle()
    assert [row.failed_at_ms is None for row in cold_starts(bench)] == [False, False, True]


def test_while_it_is_refused_a_failed_start_is_kept_up_to_date_and_not_written_with_every_tick(bench):
    bench.add_model(min_replicas=1)
    cordon(bench)
    bench.run()
    (first,) = cold_starts(bench)
    assert first.cause == "min_replicas"
    bench.run()
    assert cold_starts(bench)[0].failed_at_ms == first.failed_at_ms
    with session_scope(bench.here.sessions) as session:
        session.get_one(ColdStart, first.id).failed_at_ms -= 20_000
    bench.run()
    (again,) = cold_starts(bench)
    assert again.failed_at_ms >= first.failed_at_ms


def test_a_model_without_room_is_a_failed_start_only_when_nothing_could_give_it_any(bench):
    bench.add_model("huge", kv_reserve_bytes=2 * 10**9)
    bench.gateway.activity("huge", waiting=1)
    bench.run()
    (cold_start,) = cold_starts(bench)
    assert "the largest device has" in cold_start.reason


def test_a_worker_more_that_cannot_be_had_is_no_failed_start(bench):
    group = serving(bench, capacity=1)
    bench.gateway.activity("m", waiting=1, groups={group.id: 1})
    cordon(bench)
    bench.run()
    assert len(cold_starts(bench)) == 1
