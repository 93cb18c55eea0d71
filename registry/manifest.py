"""A model's manifest: every tensor with its byte range and digest, and what of it each pipeline stage needs.

`registry.sources` makes a manifest at registration; it is stored as JSON with the model. Everything here is pure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, Literal, NotRequired, TypeVar

from typing_extensions import TypedDict

from registry.errors import InvalidError

MANIFEST_FORMAT = 1
MAX_STAGES = 4  # the paper splits a model over at most four servers
# A further stage is worth a server only if the largest stage shrinks by at least this much.
_USEFUL_SHRINK = 0.05

EMBED_TENSOR = "model.embed_tokens.weight"
HEAD_TENSOR = "lm_head.weight"
_LAYER = re.compile(r"model\.layers\.(0|[1-9]\d{0,3})\.(.+)")

# Architectures whose SGLang classes split by layers and whose checkpoints use this tensor layout:
# model.embed_tokens.*, model.layers.<n>.*, model.norm.*, lm_head.*
PIPELINE_ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})

# Bytes of one element, by the names that safetensors headers use.
DTYPE_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


class TensorDoc(TypedDict):
    """A tensor: `[begin, end)` of `file`, absolute, are its bytes, or with `codec` what decodes to them
    (registry/compression.py); `sha256` (hex) is of its own bytes."""

    name: str
    file: str
    begin: int
    end: int
    dtype: str
    shape: list[int]
    sha256: str
    codec: NotRequired[Literal["blosc"]]


class FileDoc(TypedDict):
    """A small file (configuration, tokenizer), whole. `size` in bytes."""

    name: str
    size: int
    sha256: str


class ManifestDoc(TypedDict):
    """What registration found. `tensors` are in load order; `kv_bytes_per_token` is of the whole model at `dtype`;
    `weight_bytes` are the tensors' own, whatever they take at the source."""

    format: int
    architecture: str
    layers: int
    hidden_size: int
    vocab_size: int
    dtype: str
    tied_embeddings: bool
    context_length: int
    kv_bytes_per_token: int
    weight_bytes: int
    max_stages: int
    tensors: list[TensorDoc]
    files: list[FileDoc]


class StageTensorDoc(TensorDoc):
    """A tensor as a stage loads it; `source_name` is its name in the model's own files."""

    source_name: str


_Tensor = TypeVar("_Tensor", bound=TensorDoc)


class StageDoc(TypedDict):
    """The part of a `prefetch` effect (docs/interfaces.md, section 7) that the model determines."""

    tensors: list[StageTensorDoc]
    files: list[FileDoc]
    config_overrides: dict[str, Any]


class TensorGroups(TypedDict):
    """Bytes, as they lie at the source, of the parts that stages are made of. `head` is what the last stage of a
    pipeline needs besides its layers: the final norm and the output projection, which with tied embeddings is a second
    copy of the embedding.
    `whole` is the model on one worker, without that copy."""

    embed: int
    layers: list[int]
    head: int
    whole: int


def tensor_group(name: str) -> str | None:
    """The part that a tensor belongs to: "embed", "layer:<n>" or "head"; None when the layout has no such tensor."""
    layer = _LAYER.fullmatch(name)
    if layer:
        return f"layer:{int(layer[1])}"
    if name.startswith("model.embed_tokens."):
        return "embed"
    if name.startswith(("model.norm.", "lm_head.")):
        return "head"
    return None


def layer_part(name: str) -> str:
    """What follows `model.layers.<n>.` in the name of a layer's tensor; the same for every layer of a model."""
    layer = _LAYER.fullmatch(name)
    if layer is None:
        raise ValueError(f"{name} is not a tensor of a layer")
    return layer[2]


def load_order(tensors: Iterable[_Tensor]) -> list[_Tensor]:
    """Embedding, head and norm, layers by number (2 before 10); within a part, in file order: reads are sequential.

    The largest come first: a tensor is copied when all of it is there, and after the last byte only the last one is
    left to copy (of a head of 200 MB, 0.6 s on one core).
    """

    def position(tensor: _Tensor) -> tuple[int, str, int]:
        group = tensor_group(tensor["name"]) or "head"
        number = -2 if group == "embed" else -1 if group == "head" else int(group.removeprefix("layer:"))
        return number, tensor["file"], tensor["begin"]

    return sorted(tensors, key=position)


def tensor_bytes(tensor: TensorDoc) -> int:
    """Its own bytes, which it has in memory, whatever it takes at the source."""
    return DTYPE_BYTES[tensor["dtype"]] * prod(tensor["shape"])


def source_bytes(manifest: ManifestDoc) -> int:
    """What the weights take at the source, and on the way to a node."""
    return sum(tensor["end"] - tensor["begin"] for tensor in manifest["tensors"])


def tensor_groups(manifest: ManifestDoc) -> TensorGroups:
    """Bytes of embedding, of each layer and of the head, for the planner."""
    embed, head, layers = 0, 0, [0] * manifest["layers"]
    for tensor in manifest["tensors"]:
        size = tensor["end"] - tensor["begin"]
        group = tensor_group(tensor["name"])
        if group == "embed":
            embed += size
        elif group == "head":
            head += size
        elif group is not None:
            layers[int(group.removeprefix("layer:"))] += size
    whole = embed + head + sum(layers)
    return {
        "embed": embed,
        "layers": layers,
        "head": head + (embed if manifest["tied_embeddings"] else 0),
        "whole": whole,
    }


def stage_tensors(manifest: ManifestDoc, first_layer: int, layer_count: int, *, world: int) -> StageDoc:
    """What the stage with layers `[first_layer, first_layer + layer_count)` of a group of `world` stages loads.

    SGLang 0.5.23 builds no output projection on the last stage of a pipeline with tied embeddings. So with
    `world` > 1 the last stage loads the embedding as its own `lm_head.weight`, and every rank is told that the
    embeddings are not tied: all ranks must build the same model.
    """
    total = manifest["layers"]
    if world < 1 or first_layer < 0 or layer_count < 1 or first_layer + layer_count > total:
        raise InvalidError(f"layers {first_layer} to {first_layer + layer_count - 1} are not a stage of {total} layers")
    if (world == 1) != (layer_count == total):
        raise InvalidError(f"a group of {world} cannot have a stage of {layer_count} of {total} layers")
    first, last = first_layer == 0, first_layer + layer_count == total
    wanted = {f"layer:{number}" for number in range(first_layer, first_layer + layer_count)}
    wanted |= {"embed"} if first else set()
    wanted |= {"head"} if last else set()

    tensors: list[StageTensorDoc] = [
        {**tensor, "source_name": tensor["name"]}
        for tensor in manifest["tensors"]
        if tensor_group(tensor["name"]) in wanted
    ]
    untie = manifest["tied_embeddings"] and world > 1
    if untie and last:
        embedding = next(tensor for tensor in manifest["tensors"] if tensor["name"] == EMBED_TENSOR)
        tensors.append({**embedding, "name": HEAD_TENSOR, "source_name": EMBED_TENSOR})
    overrides: dict[str, Any] = {"tie_word_embeddings": False} if untie else {}
    # Sorted here too: what was registered by an earlier version lies in another order.
    return {"tensors": load_order(tensors), "files": list(manifest["files"]), "config_overrides": overrides}


def largest_useful_stages(groups: TensorGroups) -> int:
    """The largest s (at most 4) at which one more stage still makes the largest stage clearly smaller.

    Fetch time goes with the largest stage; a large embedding, which cannot be split, ends the gain early.
    """
    useful, largest = 1, groups["whole"]
    for stages in range(2, min(MAX_STAGES, len(groups["layers"])) + 1):
        size = smallest_largest_stage(groups["embed"], groups["layers"], groups["head"], stages)
        if size > largest * (1 - _USEFUL_SHRINK):
            break
        useful, largest = stages, size
    return useful


def smallest_largest_stage(embed: int, layers: Sequence[int], head: int, stages: int) -> int:
    """Bytes of the largest stage in the best split of `layers` into `stages` contiguous runs, each of at least one
    layer, with `embed` on the first and `head` on the last."""
    weights = list(layers)
    weights[0] += embed
    weights[-1] += head
    low, high = max(weights), sum(weights)
    while low < high:
        middle = (low + high) // 2
        if _runs_needed(weights, middle) <= stages:
            high = middle
        else:
            low = middle + 1
    return low


def _runs_needed(weights: Sequence[int], bound: int) -> int:
    runs, filled = 1, 0
    for weight in weights:
        if filled + weight > bound:
            runs, filled = runs + 1, 0
        filled += weight
    return runs
