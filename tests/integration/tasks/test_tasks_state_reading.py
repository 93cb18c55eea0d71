"""Whoever reads the cluster's state changes nothing: commands and pages do so beside the controller that writes."""

from __future__ import annotations

from cli.cluster import node_documents
from registry.db import SessionFactory, read_scope, session_scope
from registry.ops import nodes
from tasks.demand import Demand
from tasks.state import load_state


def add_node(sessions: SessionFactory, name: str = "n0") -> None:
    report = {
        "v": 1,
        "node": name,
        "boot_id": "boot",
        "seq": 1,
        "devices": [{"index": 0, "kind": "cpu", "name": "CPU", "memory_bytes": 10**9}],
        "address": "127.0.0.1",
        "ports": [31000, 31099],
        "link_bps": 10**9,
        "store": {"bytes": 0, "limit_bytes": 10**9, "digests": []},
        "warm": {"ready": True, "pid": 1, "engine": "sglang 0.5.23", "memory_bytes": 1},
        "stages": [],
    }
    with session_scope(sessions) as session:
        nodes.upsert_from_report(session, report, 1)


def test_a_node_is_shown_draining_before_the_controller_has_seen_it_and_while_it_writes(
    session_factory: SessionFactory,
) -> None:
    add_node(session_factory)
    with session_scope(session_factory) as session:
        nodes.drain(session, "tester", "n0")
    with session_scope(session_factory) as controller:
        controller.connection()  # SQLite's lock
        with read_scope(session_factory) as session:
            assert [node["state"] for node in node_documents(session, 1)] == ["draining"]
            assert set(load_state(session, Demand(), 1).draining) == {"n0"}
            assert not session.dirty
