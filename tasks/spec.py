"""From rows of SQL to what the orchestrator calls a model and a node."""

from typing import cast

from orchestrator.types import ModelSpec, Profile
from registry.manifest import ManifestDoc, tensor_groups
from registry.models import Model


def model_spec(model: Model) -> ModelSpec:
    """The planner's view of a registered model."""
    sizes = tensor_groups(cast(ManifestDoc, model.manifest))
    # The registry counts the head as the last stage of a pipeline needs it; the planner adds the tied copy by itself.
    head = sizes["head"] - (sizes["embed"] if model.tied_embeddings else 0)
    return ModelSpec(
        name=model.name,
        layer_bytes=tuple(sizes["layers"]),
        embed_bytes=sizes["embed"],
        head_bytes=head,
        tied=model.tied_embeddings,
        kv_bytes_per_token=model.manifest["kv_bytes_per_token"],
        kv_reserve_bytes=model.kv_reserve_bytes,
        slo_ttft_ms=model.slo_ttft_ms,
        slo_tpot_ms=model.slo_tpot_ms,
        profile=Profile.from_json(model.profile),
        max_stages=model.max_stages,
        capacity=model.capacity,
    )
