"""The controller's tasks on real nodeds, whose engines are stand-ins and whose weights come from a store over HTTP.

A whole cold start but for SGLang: what is decided, fetched, verified, forked, given back, and told to gateways.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session
from support.control_bench import Bench
from support.engine_node import EngineNode
from support.safetensors_writer import llama_tensors, write_model
from support.stand_in_node import stand_in_node

from engine.client import NodedUnavailable
from engine.noded import processes
from registry.db import session_scope
from registry.ids import now_ms
from registry.models import Group, Model, Node, Stage
from registry.ops.models import register_model
from registry.publish import publish_snapshot
from tasks.runtime import Runtime

LAYERS, HIDDEN, VOCAB = 8, 128, 1000


def write_weights(folder: Path) -> Path:
    """A model directory of 2.1 MB."""
    config = {"hidden_size": HIDDEN, "vocab_size": VOCAB}
    tensors = llama_tensors(layers=LAYERS, hidden=HIDDEN, vocab=VOCAB)
    return write_model(folder, tensors, layers=LAYERS, config_changes=config)


def two_nodes(home: Path, *, of_n0: dict[str, Any] | None = None, **settings: Any) -> list[EngineNode]:
    """Nodes `n0` and `n1`, not started, with these settings (`of_n0`: of that one alone)."""
    first = 21_000 + os.getpid() % 50 * 200
    both = {"link_gbps": 1.0, **settings}
    return [
        stand_in_node(home, f"n{i}", (first + 100 * i, first + 100 * i + 99), **(both if i else both | (of_n0 or {})))
        for i in range(2)
    ]


class ColdStarts(Bench):
    """A controller with its database and Redis, a gateway, and the nodes `engines`, which run."""

    def __init__(self, here: Runtime, engines: Iterable[EngineNode]) -> None:
        super().__init__(here, ())
        self.engines = {engine.name: engine for engine in engines}
        self.nodes = {name: engine.client for name, engine in self.engines.items()}  # type: ignore[assignment]
        self.report()

    def register(self, source: str, *, slo_ttft_ms: int = 600_000) -> None:
        """The model "m", whose weights are at `source`."""
        prices = {"input_nusd": 20, "output_nusd": 80}
        with session_scope(self.here.sessions) as session:
            register_model(session, "tester", name="m", source=source, slo_ttft_ms=slo_ttft_ms, **prices)
        with session_scope(self.here.sessions) as session:
            publish_snapshot(session, self.redis, now_ms())

    def ask(self) -> None:
        """A request arrives and is held."""
        self.gateway.activity("m", waiting=1)

    # --- what the system does -------------------------------------------------------------------------------------

    def carry_out(self, node: Any, message: dict[str, Any]) -> None:
        """One message; nobody answers for a noded that is away (tasks/node.py)."""
        with suppress(NodedUnavailable):
            super().carry_out(node, message)

    def report(self, *names: str) -> None:
        """Every node whose noded answers reports."""
        for name in names or self.nodes:
            with suppress(NodedUnavailable):
                super().report(name)

    def until(self, reached: Callable[[], Any], what: str, within_s: float = 30.0) -> None:
        """Let the controller, the node workers and the nodes go on until something is so."""
        deadline = time.monotonic() + within_s
        while not reached():
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self.states()} {self.why()}"
            self.gateway.beat()
            self.run()
            self.deliver()
            self.report()
            time.sleep(0.02)

    def failed(self, count: int = 1) -> Group:
        """The newest group, once it and all before it, `count` in all, have failed."""
        self.until(lambda: self.states() == ["failed"] * count, f"{count} failed starts")
        return self.groups()[-1]

    def try_again(self) -> None:
        """As if the wait after a failed start were over."""
        self.age_groups(120_000)

    def pass_deadlines(self) -> None:
        """As if every start had lasted beyond its deadline."""
        self.age_groups(1_000_000)

    def vanish(self, name: str) -> None:
        """A node's noded and engines are killed, and it has not been heard of for longer than a node may be silent."""
        self.engines[name].kill_noded()
        for pids in processes.under(self.engines[name].config.stages_dir).values():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
        with session_scope(self.here.sessions) as session:
            session.get_one(Node, name).seen_at_ms -= 21_000

    # --- what is there --------------------------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        """Stages of all groups, oldest group first."""
        return [stage for group in self.groups() for stage in group.stages]

    def why(self) -> list[str | None]:
        """Why groups ended."""
        return [group.reason for group in self.groups()]

    def stage_at(self, name: str) -> dict[str, Any]:
        """The newest stage of a node, in the node's own words."""
        stages = self.engines[name].client.report()["stages"]
        return dict(stages[-1]) if stages else {"bytes_fetched": 0, "state": "unknown"}

    def all_given_back(self) -> bool:
        """Whether the controller has promised no device memory and no bandwidth to anybody."""
        state = self.load_state()
        return all(
            node.fetches == () and all(device.free_bytes == device.memory_bytes for device in node.devices)
            for node in state.nodes
        )

    def nothing_is_left(self) -> None:
        """The model is wanted no more: memory, bandwidth and processes come back, in SQL and on the nodes."""
        self.gateway.activity("m")
        with session_scope(self.here.sessions) as session:
            disable(session)
        self.until(self.all_given_back, "memory and bandwidth")
        for engine in self.engines.values():
            engine.apply({"v": 1, "kind": "evict", "group_id": "", "version": 0, "digests": None})
            engine.wait(lambda engine=engine: engine.client.report()["store"]["bytes"] == 0, "an empty store", 20)
            assert processes.under(engine.config.stages_dir) == {}
            # What is evicted counts no more, and a thread removes it.
            segments = engine.config.store_dir / "segments"
            engine.wait(lambda segments=segments: not list(segments.iterdir()), "no segment's file", 20)


def disable(session: Session) -> None:
    """Nobody wants the model "m" any more."""
    for model in session.query(Model).filter(Model.name == "m"):
        model.enabled = False
        model.updated_at_ms += 1
