"""An operator empties a node: what it serves goes on elsewhere first."""

from __future__ import annotations

import pytest

from orchestrator.ending import DRAIN_WAIT_MS
from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import Node
from tasks.demand import read_demand
from tasks.state import load_state


def change_nodes(bench, names, **changes):
    with session_scope(bench.here.sessions) as session:
        for name in names:
            for column, value in changes.items():
                setattr(session.get_one(Node, name), column, value)


@pytest.fixture
def kept(bench):
    """A model that always has a worker; the name of the node of that worker, which is being emptied from now on."""
    bench.add_model(min_replicas=1)
    bench.settle()
    (group,) = bench.groups()
    change_nodes(bench, [group.stages[0].node_name], draining=True, cordoned=True)
    return group.stages[0].node_name


def test_there_is_a_route_at_every_moment(bench, kept):
    first = bench.groups()[0]
    bench.run()
    assert bench.states() == ["standalone", "starting"]
    assert [route["group_id"] for route in bench.gateway.routes("m")] == [first.id]
    bench.settle()
    assert bench.states() == ["stopped", "standalone"]
    (route,) = bench.gateway.routes("m")
    assert route["group_id"] == bench.groups()[1].id
    assert bench.groups()[1].stages[0].node_name != kept


def test_where_no_other_node_can_take_it_the_drain_ends_all_the_same_and_begins_anew_after_an_uncordon(bench, kept):
    (other,) = set(bench.nodes) - {kept}
    change_nodes(bench, [other], cordoned=True)
    bench.settle()
    assert bench.states() == ["standalone"]
    with session_scope(bench.here.sessions) as session:
        session.get_one(Node, kept).drain_began_at_ms -= DRAIN_WAIT_MS
    change_nodes(bench, [kept], draining=False)
    bench.run()
    change_nodes(bench, [kept], draining=True)
    bench.settle()
    assert bench.states() == ["standalone"]
    with session_scope(bench.here.sessions) as session:
        session.get_one(Node, kept).drain_began_at_ms -= DRAIN_WAIT_MS
    bench.settle()
    assert bench.states() == ["stopped"]


def test_a_reader_sees_a_drain_and_use_that_the_controller_has_not_noted_and_writes_nothing(bench, kept):
    bench.gateway.activity("m")
    with read_scope(bench.here.sessions) as session:
        seen = load_state(session, read_demand(bench.redis, now_ms()), now_ms())
    assert set(seen.draining) == {kept}
    with bench.here.sessions() as session:
        assert session.get_one(Node, kept).drain_began_at_ms is None
