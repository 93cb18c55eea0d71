"""From rows of SQL to what the orchestrator calls a model and a node."""

from fractions import Fraction
from typing import cast

from orchestrator.memory import GPU_CONTEXT_BYTES
from orchestrator.types import ModelSpec, Profile
from registry.manifest import DTYPE_BYTES, ManifestDoc, source_bytes, tensor_groups
from registry.models import Model

_ENGINE_DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})


def model_spec(model: Model) -> ModelSpec:
    """The planner's view of a registered model."""
    sizes = tensor_groups(cast(ManifestDoc, model.manifest))
    # The registry counts the head as the last stage of a pipeline needs it; the planner adds the tied copy by itself.
    growth = _growth(model)
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
        gpu_context_bytes=GPU_CONTEXT_BYTES,
        stored_bytes=growth.denominator,
        loaded_bytes=growth.numerator,
        max_stages=model.max_stages,
        capacity=model.capacity,
    )


def planned_kind(kind: str, name: str) -> str:
    """What the planner calls a kind of device: CPUs are one, of accelerators each type is its own."""
    return kind if kind == "cpu" else (name or kind)[:80]


def _growth(model: Model) -> Fraction:
    """Bytes in the engine's memory for one at the source: compressed tensors are decoded, and types converted.

    Of files with mixed types the smallest counts, so that memory is rather counted too high than too low. "auto" is the
    type that the model's configuration names (SGLang halves float32 then, which is not relied on).
    """
    decoded = Fraction(model.weight_bytes, source_bytes(cast(ManifestDoc, model.manifest)))
    stored = min((DTYPE_BYTES[t["dtype"]] for t in model.manifest["tensors"] if t["dtype"] in _FLOATS), default=None)
    wanted = model.settings.get("dtype") or "auto"
    held = _ENGINE_DTYPE_BYTES.get(model.manifest["dtype"] if wanted == "auto" else wanted)
    return decoded * Fraction(held, stored) if stored and held else decoded
