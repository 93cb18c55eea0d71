"""How long a start takes that needs no byte: the stages' weights lie in host memory, and noded is asked directly.

What remains is SGLang's own work after the fork, on the cores that all hosts of the lab share.
"""

from __future__ import annotations

import time
from typing import Any

from bench.coldstart.models import BenchModel
from bench.lab import Lab
from orchestrator.partition import split
from orchestrator.types import ModelSpec
from registry.models import Group, Model, Node, Stage
from tasks.apply import group_key
from tasks.effects import launch_effect, prefetch_effect, stop_effect

MEMORY_BYTES = 4_000_000_000


def measure(lab: Lab, model: BenchModel, row: Model, spec: ModelSpec, stages: int, body: dict[str, Any]) -> float:
    """Seconds from the fork of the first stage to the first token, over `stages` stages. Raises LabError.

    `row` is the model as the registry has it; it need not be in any database.
    """
    nodes = list(lab.nodes.values())[:stages]
    ports = [node.settings.ports[1] for node in nodes]
    group = Group(id=f"grp_floor_{time.time_ns()}", version=1, api_key=group_key())
    parts = split(spec, stages)
    group.stages = [
        Stage(
            id=f"{group.id}_{rank}",
            rank=rank,
            device_idx=0,
            first_layer=part.first,
            layer_count=part.count,
            port=ports[rank],
            dist_port=ports[0] - 1,
            reserved_bytes=MEMORY_BYTES,
            rate_bps=None,
        )
        for rank, part in enumerate(parts)
    ]
    rendezvous = Node(name=nodes[0].name, address=nodes[0].address)
    for stage, node in zip(group.stages, nodes, strict=True):
        node.client.apply(prefetch_effect(row, group, stage))
    for stage, node in zip(group.stages, nodes, strict=True):
        node.wait(lambda node=node, stage=stage: node.stage(stage.id)["verified"], "the stage's bytes")  # type: ignore[misc]
    try:
        for stage, node in zip(group.stages, nodes, strict=True):
            node.client.apply(launch_effect(row, group, stage, rendezvous))
        for stage, node in zip(group.stages, nodes, strict=True):
            node.wait_state(stage.id, "ready")
        url = f"http://{nodes[0].address}:{ports[0]}/v1/completions"
        seen = lab.ask(url, body, group.api_key)
        marks = [node.stage(stage.id)["marks"] for stage, node in zip(group.stages, nodes, strict=True)]
    finally:
        group.version = 2
        for node in nodes:
            node.client.apply(stop_effect(group) | {"grace_s": 0})
        for stage, node in zip(group.stages, nodes, strict=True):
            node.wait_state(stage.id, "gone", "failed")
        for node in nodes:
            node.client.apply({"v": 1, "kind": "evict", "group_id": "", "version": 0, "digests": None})
    first_token_wall_s = seen["first_token_s"] + time.time() - time.monotonic()
    return float(first_token_wall_s - min(mark["fork"] for mark in marks) / 1000)
