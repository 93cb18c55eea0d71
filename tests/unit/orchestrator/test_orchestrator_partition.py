"""Layers over stages: nothing lost, nothing doubled, the largest stage as small as can be."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clusters import a_model, models

from orchestrator.partition import group_bytes, split
from orchestrator.types import EMBED, HEAD, ModelSpec


def largest_by_brute_force(model: ModelSpec, stages: int) -> int:
    back = model.head_bytes + (model.embed_bytes if model.tied and stages > 1 else 0)
    best = None
    for cuts in combinations(range(1, model.layers), stages - 1):
        bounds = [0, *cuts, model.layers]
        sizes = [sum(model.layer_bytes[a:b]) for a, b in pairwise(bounds)]
        sizes[0] += model.embed_bytes
        sizes[-1] += back
        best = max(sizes) if best is None else min(best, max(sizes))
    assert best is not None
    return best


@given(models, st.integers(1, 5))
def test_the_largest_stage_is_as_small_as_any_split_allows(model, stages):
    if stages > model.layers:
        with pytest.raises(ValueError, match="cannot make"):
            split(model, stages)
        return
    assert max(part.size_bytes for part in split(model, stages)) == largest_by_brute_force(model, stages)


@given(models, st.integers(1, 5))
def test_every_layer_is_in_exactly_one_stage_and_in_order(model, stages):
    parts = split(model, min(stages, model.layers))
    covered = [layer for part in parts for layer in range(part.first, part.first + part.count)]
    assert covered == list(range(model.layers))
    assert all(part.count >= 1 for part in parts)


@given(models, st.integers(1, 5))
def test_a_stage_weighs_what_its_tensor_groups_weigh(model, stages):
    for part in split(model, min(stages, model.layers)):
        assert part.size_bytes == sum(group_bytes(model, group) for group in part.groups)
        assert part.missing_bytes(model, ()) == part.size_bytes
        assert part.missing_bytes(model, part.groups) == 0


@given(models)
def test_a_single_stage_is_the_whole_model(model):
    (part,) = split(model, 1)
    assert part.size_bytes == model.weights_bytes


def test_equal_layers_are_shared_evenly():
    assert [part.count for part in split(a_model(layers=30), 2)] == [15, 15]
    assert sorted(part.count for part in split(a_model(layers=10), 4)) == [2, 2, 3, 3]


def test_tied_embeddings_weigh_on_the_first_and_on_the_last_stage():
    tied = a_model(layers=4, embed_bytes=7, head_bytes=3, tied=True)
    first, middle, last = split(tied, 3)
    assert (EMBED in first.groups, EMBED in middle.groups, EMBED in last.groups) == (True, False, True)
    assert HEAD in last.groups
    assert HEAD not in first.groups
    whole = split(tied, 1)[0]
    assert sum(part.size_bytes for part in (first, middle, last)) == whole.size_bytes + 7


def test_heavy_embeddings_take_layers_away_from_the_ends():
    model = a_model(layers=30, layer_bytes=(7_100_000,) * 30, embed_bytes=56_600_000, head_bytes=1152, tied=True)
    counts = [part.count for part in split(model, 3)]
    assert counts[1] > counts[0]
    assert counts[1] > counts[2]


@pytest.mark.parametrize("group", ["layer:12", "layer:-1", "layer:x", "lm_head", ""])
def test_an_unknown_tensor_group_is_an_error(group):
    with pytest.raises(ValueError, match="has no tensor group"):
        group_bytes(a_model(layers=12), group)


def test_models_that_differ_in_name_only_are_split_once():
    assert split(a_model(8, name="one"), 3) is split(a_model(8, name="another"), 3)
