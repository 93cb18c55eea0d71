"""A controller that was away, a gateway that died: silence is not taken for more than it is."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from support.control_bench import kinds, serving
from support.watching import watched

from registry.db import session_scope
from registry.ids import now_ms
from registry.models import Node


def test_a_long_stream_counts_as_use_until_its_gateway_was_last_heard(bench):
    group = serving(bench, keep_alive_s=60)
    bench.age_groups(600_000)
    # The stream began ten minutes ago; its gateway died with it a moment ago.
    bench.gateway.activity("m", age_ms=11_000, groups={group.id: 1}, last_request_at_ms=now_ms() - 600_000)
    bench.gateway.beat()
    bench.run()
    assert bench.states() == ["standalone"]


def away(bench, *, for_ms):
    """Nobody has listened for so long; nodes and gateways have gone on all the same, and are heard again only later."""
    watched(bench.redis, last_ms=now_ms() - for_ms)
    with session_scope(bench.here.sessions) as session:
        for node in session.scalars(select(Node)):
            node.seen_at_ms -= for_ms


def test_a_controller_that_was_away_takes_no_node_for_lost_before_it_has_listened_to_it(bench):
    serving(bench)
    away(bench, for_ms=60_000)
    bench.run()
    assert bench.states() == ["standalone"]
    # From then on it listens: a node that stays silent is lost as ever.
    watched(bench.redis, since_ms=now_ms() - 21_000)
    bench.run()
    assert bench.states()[0] == "failed"


def test_after_an_outage_of_redis_no_gateway_is_taken_for_dead_at_once(bench):
    group = serving(bench, keep_alive_s=0)
    bench.change_model(enabled=False)
    bench.run()
    bench.gateway.beat(age_ms=30_000)
    bench.gateway.activity("m", age_ms=30_000, groups={group.id: 1})
    away(bench, for_ms=30_000)
    bench.run()
    assert bench.messages(f"node.{group.stages[0].node_name}") == [], "its stream may still run"
    watched(bench.redis, since_ms=now_ms() - 10_000)
    bench.run()
    assert kinds(bench.messages(f"node.{group.stages[0].node_name}")) == ["stop"]


def test_a_controller_that_cannot_read_its_database_does_not_look(bench, monkeypatch):
    from sqlalchemy.exc import OperationalError

    from tasks import control
    from tasks.watch import CONTROLLER, watch_key

    bench.redis.delete(watch_key(CONTROLLER))

    def refuse(*_):
        raise OperationalError("SELECT 1", {}, Exception("no connection"))

    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.orm.Session.connection", refuse)
        with pytest.raises(OperationalError):
            control.run(bench.here)
    assert not bench.redis.exists(watch_key(CONTROLLER))
    bench.run()
    assert bench.redis.exists(watch_key(CONTROLLER))
