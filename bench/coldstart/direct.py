"""A group of stages that is asked of the nodes directly, as the controller would ask, before there is a controller."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench.lab import LabNode
from orchestrator.partition import split
from orchestrator.types import ModelSpec
from registry.models import Group, Model, Node, Stage
from tasks.apply import group_key
from tasks.effects import launch_effect, prefetch_effect, stop_effect

MEMORY_BYTES = 4_000_000_000


class DirectGroup:
    """One stage on each of `nodes`. `row` is the model as the registry has it.

    `slot` tells groups on the same nodes apart: 0, 1, ... `background`: it consolidates a pipeline on which
    streams run. Methods raise LabError.
    """

    def __init__(
        self,
        row: Model,
        spec: ModelSpec,
        nodes: Sequence[LabNode],
        slot: int = 0,
        background: bool = False,
    ) -> None:
        self._row, self._nodes, self._background = row, list(nodes), background
        ports = [node.settings.ports[1] - 2 * slot for node in nodes]
        self.url = f"http://{nodes[0].address}:{ports[0]}/v1/completions"
        self._group = Group(id=f"grp_direct_{time.time_ns()}", version=1, api_key=group_key())
        self._group.stages = [
            Stage(
                id=f"{self._group.id}_{rank}",
                rank=rank,
                device_idx=0,
                first_layer=part.first,
                layer_count=part.count,
                port=ports[rank],
                dist_port=ports[0] - 1,
                reserved_bytes=MEMORY_BYTES,
                rate_bps=None,
            )
            for rank, part in enumerate(split(spec, len(nodes)))
        ]

    @property
    def key(self) -> str:
        """What its engine answers to."""
        return self._group.api_key

    def fetch(self) -> None:
        """Have the stages' bytes fetched; returns at once."""
        for stage, node in self._pairs():
            node.client.apply(prefetch_effect(self._row, self._group, stage, background=self._background))

    def wait_fetched(self) -> None:
        """Wait until every stage's bytes are there."""
        for stage, node in self._pairs():
            node.wait(lambda node=node, stage=stage: node.stage(stage.id)["verified"], "the stage's bytes")  # type: ignore[misc]

    def launch(self) -> None:
        """Have the stages' processes started; returns at once."""
        rendezvous = Node(name=self._nodes[0].name, address=self._nodes[0].address)
        for stage, node in self._pairs():
            node.client.apply(launch_effect(self._row, self._group, stage, rendezvous))

    def wait_ready(self) -> None:
        """Wait until every stage is ready."""
        for stage, node in self._pairs():
            node.wait_state(stage.id, "ready")

    def marks(self) -> list[dict[str, Any]]:
        """Each stage's timed steps, in ms since the epoch."""
        return [node.stage(stage.id)["marks"] for stage, node in self._pairs()]

    def stop(self) -> None:
        """End its processes, and forget its bytes where nobody else uses them."""
        self._group.version = 2
        for node in self._nodes:
            node.client.apply(stop_effect(self._group) | {"grace_s": 0})
        for stage, node in self._pairs():
            node.wait_state(stage.id, "gone", "failed")
        for node in self._nodes:
            node.client.apply({"v": 1, "kind": "evict", "group_id": "", "version": 0, "digests": None})

    def _pairs(self) -> list[tuple[Stage, LabNode]]:
        return list(zip(self._group.stages, self._nodes, strict=True))
