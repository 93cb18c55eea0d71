"""What each stage loads: everything, once, and nothing else."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidError
from registry.manifest import (
    ManifestDoc,
    TensorDoc,
    largest_useful_stages,
    load_order,
    smallest_largest_stage,
    stage_tensors,
    tensor_groups,
)

PARTS = ("input_layernorm.weight", "self_attn.q_proj.weight", "mlp.down_proj.weight")


def manifest_of(layers: int, *, tied: bool, layer_bytes: int = 10, embed_bytes: int = 50) -> ManifestDoc:
    tensors: list[TensorDoc] = []
    offset = 100

    def add(name: str, size: int) -> None:
        nonlocal offset
        end = offset + size
        tensors.append(
            {"name": name, "file": "m", "begin": offset, "end": end, "dtype": "U8", "shape": [size], "sha256": name}
        )
        offset = end

    # As files have it: names sorted as text, so that layer 10 comes before layer 2.
    names = [f"model.layers.{layer}.{part}" for layer in range(layers) for part in PARTS]
    names += ["model.embed_tokens.weight", "model.norm.weight", *([] if tied else ["lm_head.weight"])]
    for name in sorted(names):
        add(name, embed_bytes if "embed" in name or "lm_head" in name else layer_bytes)
    return {
        "format": 1,
        "architecture": "LlamaForCausalLM",
        "layers": layers,
        "hidden_size": 8,
        "vocab_size": 32,
        "dtype": "float16",
        "tied_embeddings": tied,
        "context_length": 128,
        "kv_bytes_per_token": 64,
        "weight_bytes": offset - 100,
        "max_stages": 4,
        "tensors": load_order(tensors),
        "files": [{"name": "config.json", "size": 2, "sha256": "00"}],
    }


@st.composite
def splits(draw: st.DrawFn) -> list[int]:
    """Layer counts of a group's stages."""
    return draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))


@given(splits(), st.booleans())
def test_any_split_loads_every_tensor_exactly_once(split: Sequence[int], tied: bool) -> None:
    manifest = manifest_of(sum(split), tied=tied)
    loaded: list[str] = []
    sources: list[str] = []
    overrides = []
    first = 0
    for count in split:
        stage = stage_tensors(manifest, first, count, world=len(split))
        loaded += [tensor["name"] for tensor in stage["tensors"]]
        sources += [tensor["source_name"] for tensor in stage["tensors"]]
        overrides.append(stage["config_overrides"])
        assert stage["files"] == manifest["files"]
        first += count

    own = [tensor["name"] for tensor in manifest["tensors"]]
    alias = ["lm_head.weight"] if tied and len(split) > 1 else []
    assert sorted(loaded) == sorted(own + alias)
    assert sorted(sources) == sorted(own + (["model.embed_tokens.weight"] if alias else []))
    # All ranks must build the same model.
    assert all(override == ({"tie_word_embeddings": False} if alias else {}) for override in overrides)


@given(splits(), st.booleans())
def test_tensor_groups_add_up_to_what_stages_load(split: Sequence[int], tied: bool) -> None:
    manifest = manifest_of(sum(split), tied=tied)
    groups = tensor_groups(manifest)
    assert groups["whole"] == manifest["weight_bytes"]
    first = 0
    for count in split:
        stage = stage_tensors(manifest, first, count, world=len(split))
        size = sum(tensor["end"] - tensor["begin"] for tensor in stage["tensors"])
        expected = sum(groups["layers"][first : first + count])
        expected += groups["embed"] if first == 0 else 0
        expected += groups["head"] if first + count == manifest["layers"] else 0
        assert size == (groups["whole"] if len(split) == 1 else expected)
        first += count


def test_what_is_large_loads_first_then_layers_in_the_order_they_run() -> None:
    names = [tensor["name"] for tensor in stage_tensors(manifest_of(12, tied=False), 0, 12, world=1)["tensors"]]
    layers = [int(name.split(".")[2]) for name in names if name.startswith("model.layers.")]
    assert layers == sorted(layers)
    assert names[0] == "model.embed_tokens.weight"
    assert set(names[1:3]) == {"model.norm.weight", "lm_head.weight"}, "large tensors are not left to the end"


def test_the_alias_of_a_tied_embedding_has_the_embeddings_bytes() -> None:
    manifest = manifest_of(4, tied=True)
    embedding = manifest["tensors"][0]
    head = stage_tensors(manifest, 2, 2, world=2)["tensors"][0]
    assert (head["name"], head["source_name"]) == ("lm_head.weight", "model.embed_tokens.weight")
    assert (head["begin"], head["end"], head["sha256"]) == (embedding["begin"], embedding["end"], embedding["sha256"])


@pytest.mark.parametrize(
    ("first", "count", "world"), [(-1, 2, 2), (0, 0, 2), (3, 2, 2), (0, 4, 2), (0, 2, 1), (0, 4, 0), (4, 1, 2)]
)
def test_what_is_no_stage_is_refused(first: int, count: int, world: int) -> None:
    with pytest.raises(InvalidError):
        stage_tensors(manifest_of(4, tied=False), first, count, world=world)


def largest_by_trial(weights: Sequence[int], stages: int) -> int:
    """The best split by trying all of them."""
    if stages == 1:
        return sum(weights)
    return min(
        max(sum(weights[:cut]), largest_by_trial(weights[cut:], stages - 1))
        for cut in range(1, len(weights) - stages + 2)
    )


@given(
    st.lists(st.integers(1, 50), min_size=4, max_size=9), st.integers(0, 200), st.integers(0, 200), st.integers(1, 4)
)
def test_the_best_split_is_found(layers: list[int], embed: int, head: int, stages: int) -> None:
    weights = [layers[0] + embed, *layers[1:-1], layers[-1] + head]
    assert smallest_largest_stage(embed, layers, head, stages) == largest_by_trial(weights, stages)


def test_a_large_embedding_ends_the_use_of_more_stages() -> None:
    assert largest_useful_stages(tensor_groups(manifest_of(12, tied=True, embed_bytes=1))) == 4
    # The embedding is most of the model and, tied, is needed on both ends: two stages load hardly less than one.
    assert largest_useful_stages(tensor_groups(manifest_of(12, tied=True, embed_bytes=100_000))) == 1
    assert largest_useful_stages(tensor_groups(manifest_of(1, tied=False))) == 1
