"""What is sent to a node for each stage of a group: the effects of docs/interfaces.md, section 7, as plain JSON."""

from typing import Any, cast

from registry.manifest import ManifestDoc, stage_tensors
from registry.models import Group, Model, Node, Stage

STOP_GRACE_S = 5
"""For what still runs. SGLang looks every 5 s whether it is to end, so that a stop with any grace takes that long."""


def prefetch_effect(model: Model, group: Group, stage: Stage, *, background: bool = False) -> dict[str, Any]:
    """Bytes start flowing to the stage's node: exactly the tensors of its layers.

    `background`: streams run over the same link, on a pipeline that this stage is to replace.
    """
    wanted = stage_tensors(
        cast(ManifestDoc, model.manifest), stage.first_layer, stage.layer_count, world=len(group.stages)
    )
    return {
        "v": 1,
        "kind": "prefetch",
        "group_id": group.id,
        "version": group.version,
        "stage_id": stage.id,
        "source": model.source,
        **wanted,
        "rate_bps": stage.rate_bps,
        "deadline_ms": stage.fetch_deadline_ms,
        **({"background": True} if background else {}),
    }


def launch_effect(model: Model, group: Group, stage: Stage, rendezvous: Node) -> dict[str, Any]:
    """A runtime becomes this stage's engine process. `rendezvous` is the node of rank 0, where the ranks meet."""
    world = len(group.stages)
    return {
        "v": 1,
        "kind": "launch",
        "group_id": group.id,
        "version": group.version,
        "stage_id": stage.id,
        "device": stage.device_idx,
        "rank": stage.rank,
        "world": world,
        "layers": [s.layer_count for s in group.stages],
        "dist_address": f"{rendezvous.address}:{stage.dist_port}" if world > 1 else None,
        "port": stage.port,
        "api_key": group.api_key,
        "model_name": model.name,
        "memory_bytes": stage.reserved_bytes,
        "settings": {"context_length": model.context_length, **model.settings},
    }


def stop_effect(group: Group, *, quiet: bool = False) -> dict[str, Any]:
    """Every process of the group on a node ends; at once where it is `quiet`, with nothing left to finish."""
    grace_s = 0 if quiet else STOP_GRACE_S
    return {"v": 1, "kind": "stop", "group_id": group.id, "version": group.version, "grace_s": grace_s}
