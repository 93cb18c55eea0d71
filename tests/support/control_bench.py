"""The controller's tasks in the test's own process, on a real database and Redis; messages pass when the test says so.

What the controller sends lies in Redis as Celery messages; `deliver` takes them out as a node's worker would, hands
them to the node and brings the answers back.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import selectinload
from support.fake_gateways import FakeGateway
from support.fake_noded import FakeNoded
from support.registry_rows import add_model
from support.watching import watched

from engine.client import BadEffect, StaleVersion
from orchestrator.control import ControlState
from registry.db import session_scope
from registry.ids import now_ms
from registry.models import Group, Model, Outbox
from registry.publish import publish_snapshot
from tasks import control
from tasks.demand import read_demand
from tasks.runtime import Runtime
from tasks.state import load_state

ROUNDS = 40


class Bench:
    """A controller, its database and Redis, two nodes, a gateway."""

    def __init__(self, here: Runtime, nodes: Iterable[str] = ("n0", "n1")) -> None:
        self.here = here
        self.redis: Redis = here.redis
        self.nodes = {name: FakeNoded(name, first_port=31000 + 100 * i) for i, name in enumerate(nodes)}
        self.gateway = FakeGateway(self.redis)
        # As if the controller had been looking for ever: silence then means that nothing runs.
        watched(self.redis)

    # --- what people do -------------------------------------------------------------------------------------------

    def add_model(self, name: str = "m", *, split: bool = False, **options: Any) -> str:
        """Register a model that is planned on one node, or with `split` as a pipeline over two."""
        with session_scope(self.here.sessions) as session:
            model = add_model(session, name, slo_ttft_ms=5500 if split else 60_000, **options)
            model_id = model.id
        with session_scope(self.here.sessions) as session:
            publish_snapshot(session, self.redis, now_ms())
        return model_id

    def change_model(self, name: str = "m", **changes: Any) -> None:
        """Change columns of a model."""
        with session_scope(self.here.sessions) as session:
            model = session.scalars(select(Model).where(Model.name == name)).one()
            for column, value in changes.items():
                setattr(model, column, value)
            model.updated_at_ms += 1

    # --- what the system does -------------------------------------------------------------------------------------

    def run(self) -> None:
        """One run of the controller, whatever woke it."""
        control.run(self.here)

    def report(self, *names: str) -> None:
        """Nodes (all by default) report; the controller stores and reconciles."""
        for name in names or self.nodes:
            control.node_report(name, self.nodes[name].report())

    def messages(self, queue: str) -> list[dict[str, Any]]:
        """Take every message out of a queue, oldest first: task name, arguments, headers."""
        found = []
        while (raw := self.redis.rpop(queue)) is not None:
            message = json.loads(raw)
            args, _kwargs, _embed = json.loads(base64.b64decode(message["body"]))
            found.append({"task": message["headers"]["task"], "args": args, "headers": message["headers"]})
        return found

    def deliver(self, *names: str) -> int:
        """What lies in the nodes' queues is carried out and answered; the number of messages."""
        count = 0
        for name in names or self.nodes:
            for message in self.messages(f"node.{name}"):
                self.carry_out(self.nodes[name], message)
                count += 1
        return count

    def carry_out(self, node: FakeNoded, message: dict[str, Any]) -> None:
        """One message, as tasks/node.py does it."""
        outbox_id = message["args"][0]
        error, refused = None, False
        try:
            node.apply(message["args"][1])
        except StaleVersion as stale:
            error = str(stale)
        except BadEffect as bad:
            error, refused = str(bad), True
        control.applied(outbox_id, error, refused)

    def settle(self) -> None:
        """Everything that is on its way arrives, and gateways read the routes, until nothing more happens."""
        before = None
        for _ in range(ROUNDS):
            self.gateway.beat()
            self.run()
            self.deliver()
            self.report()
            now = (self.states(), len(self.outbox(undone=True)), self.redis.get("hyd:routes:version"))
            if now == before:
                return
            before = now
        raise AssertionError(f"this does not come to rest: {before}")

    def load_state(self) -> ControlState:
        """What the controller would decide from now."""
        with self.here.sessions() as session:
            return load_state(session, read_demand(self.redis, now_ms()), now_ms())

    # --- what is there --------------------------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        """All groups, oldest first, with their stages."""
        with self.here.sessions() as session:
            query = select(Group).options(selectinload(Group.stages)).order_by(Group.created_at_ms, Group.id)
            return list(session.scalars(query))

    def states(self) -> list[str]:
        """The states of all groups, oldest first."""
        return [group.state for group in self.groups()]

    def outbox(self, *, undone: bool = False) -> list[Outbox]:
        """Rows of the outbox, oldest first."""
        with self.here.sessions() as session:
            rows = session.scalars(select(Outbox).order_by(Outbox.id)).all()
            return [row for row in rows if not undone or row.done_at_ms is None]

    def fetched_in_background(self) -> dict[str, bool]:
        """Group id -> whether its nodes were told to leave their links to others."""
        return {
            effect["group_id"]: effect.get("background", False)
            for node in self.nodes.values()
            for effect in node.effects
            if effect["kind"] == "prefetch"
        }

    def age_outbox(self, by_ms: int) -> None:
        """As if everything had been sent, and done, so much earlier."""
        with session_scope(self.here.sessions) as session:
            for row in session.scalars(select(Outbox)):
                row.created_at_ms -= by_ms
                row.sent_at_ms = None if row.sent_at_ms is None else row.sent_at_ms - by_ms
                row.done_at_ms = None if row.done_at_ms is None else row.done_at_ms - by_ms

    def age_groups(self, by_ms: int) -> None:
        """As if every group had been made, become ready, been used and ended so much earlier."""
        with session_scope(self.here.sessions) as session:
            for group in session.scalars(select(Group)):
                group.created_at_ms -= by_ms
                group.deadline_ms -= by_ms
                for column in ("ready_at_ms", "last_used_at_ms", "stopped_at_ms"):
                    value = getattr(group, column)
                    setattr(group, column, None if value is None else value - by_ms)


def kinds(messages: Iterable[dict[str, Any]]) -> list[str]:
    """What messages to a node ask for, in a word each."""
    return [message["args"][1]["kind"] for message in messages]


def serving(bench: Bench, **options: Any) -> Group:
    """A model "m" with one worker, used a moment ago."""
    bench.add_model(**options)
    bench.gateway.activity("m", waiting=1)
    bench.settle()
    (group,) = bench.groups()
    bench.gateway.activity("m", groups={group.id: 1})
    bench.run()
    return group


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[Runtime]:
    """The runs of the controller, which do nothing from now on."""
    runs: list[Runtime] = []
    monkeypatch.setattr(control, "run", runs.append)
    return runs
