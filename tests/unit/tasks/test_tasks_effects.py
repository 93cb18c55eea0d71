"""What is sent to nodes, and how a registered model looks to the planner."""

import json

import pytest
from support.registry_rows import small_manifest

from engine.weights.spec import Prefetch
from orchestrator.partition import split
from orchestrator.types import Profile
from registry.models import Group, Model, Node, Stage
from tasks.effects import launch_effect, prefetch_effect, stop_effect
from tasks.facts import Held, part_digests
from tasks.spec import model_spec


def a_model(*, tied: bool = False) -> Model:
    manifest = small_manifest(layers=4)
    if tied:
        manifest["tensors"] = [tensor for tensor in manifest["tensors"] if tensor["name"] != "lm_head.weight"]
        manifest["tied_embeddings"] = True
    for number, tensor in enumerate(manifest["tensors"]):
        tensor["sha256"] = f"{number:064x}"
    return Model(
        id="mod_1",
        name="m",
        source="file:///models/m",
        layers=4,
        tied_embeddings=tied,
        manifest=dict(manifest),
        weight_bytes=manifest["weight_bytes"],
        settings={"dtype": "float16", "context_length": 512, "embedding": False},
        context_length=512,
        kv_reserve_bytes=1000,
        slo_ttft_ms=5000,
        slo_tpot_ms=None,
        profile={},
        max_stages=4,
        capacity=8,
    )


def a_group(*layers: int) -> Group:
    group = Group(id="grp_1", version=3, api_key="secret", cold_start_id="cst_1")
    first = 0
    for rank, count in enumerate(layers):
        group.stages.append(
            Stage(
                id=f"stg_{rank}", rank=rank, node_name=f"n{rank}", device_idx=rank, first_layer=first,
                layer_count=count, reserved_bytes=77, port=31000 + rank, dist_port=31050 if len(layers) > 1 else None,
                rate_bps=None,
            )
        )  # fmt: skip
        first += count
    return group


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_planner_counts_what_the_stages_really_load(tied):
    model = a_model(tied=tied)
    spec = model_spec(model)
    assert spec.profile == Profile()
    whole = prefetch_effect(model, a_group(4), a_group(4).stages[0])
    assert spec.weights_bytes == sum(tensor["end"] - tensor["begin"] for tensor in whole["tensors"])
    pair = a_group(2, 2)
    for part, stage in zip(split(spec, 2), pair.stages, strict=True):
        stage.first_layer, stage.layer_count = part.first, part.count
        fetched = prefetch_effect(model, pair, stage)["tensors"]
        assert part.size_bytes == sum(tensor["end"] - tensor["begin"] for tensor in fetched)


def test_the_ranks_of_a_group_fetch_every_tensor_between_them():
    model, group = a_model(), a_group(1, 2, 1)
    names = [tensor["name"] for stage in group.stages for tensor in prefetch_effect(model, group, stage)["tensors"]]
    assert sorted(names) == sorted(tensor["name"] for tensor in model.manifest["tensors"])


@pytest.mark.parametrize("background", [False, True])
def test_a_node_understands_how_urgent_a_fetch_is(background):
    model, group = a_model(), a_group(4)
    effect = prefetch_effect(model, group, group.stages[0], background=background)
    assert Prefetch.from_json(effect).background is background


def test_effects_carry_the_groups_version_and_are_plain_json():
    model, group = a_model(), a_group(2, 2)
    node = Node(name="n0", address="10.0.0.1")
    for stage in group.stages:
        prefetch, launch = prefetch_effect(model, group, stage), launch_effect(model, group, stage, node)
        for effect in (prefetch, launch):
            assert (effect["v"], effect["group_id"], effect["version"], effect["stage_id"]) == (1, "grp_1", 3, stage.id)
            assert json.loads(json.dumps(effect)) == effect
        assert (launch["rank"], launch["world"], launch["layers"]) == (stage.rank, 2, [2, 2])
        assert launch["dist_address"] == "10.0.0.1:31050"
        assert (launch["port"], launch["device"], launch["memory_bytes"]) == (31000 + stage.rank, stage.rank, 77)
        assert launch["settings"]["context_length"] == 512
    stop = stop_effect(group)
    assert (stop["kind"], stop["group_id"], stop["version"]) == ("stop", "grp_1", 3)


def test_a_single_worker_meets_nobody():
    launch = launch_effect(a_model(), a_group(4), a_group(4).stages[0], Node(name="n0", address="10.0.0.1"))
    assert (launch["world"], launch["dist_address"]) == (1, None)


def test_a_part_is_held_only_when_every_tensor_of_it_is():
    model = a_model()
    digests = {tensor["name"]: tensor["sha256"] for tensor in model.manifest["tensors"]}
    layer = [digest for name, digest in digests.items() if name.startswith("model.layers.1.")]
    parts = part_digests(model)

    def held(*there):
        return Held(parts, {"n0": frozenset(there)})["n0"]

    assert held() == frozenset()
    assert held(*layer) == {"layer:1"}
    assert held(*layer[1:]) == frozenset()
    assert held(*layer, digests["model.embed_tokens.weight"], "f" * 64) == {"layer:1", "embed"}
    assert held(*digests.values()) == {"embed", "head", *(f"layer:{n}" for n in range(4))}


def test_a_stop_leaves_time_to_finish_only_where_something_may_run():
    assert stop_effect(a_group(4))["grace_s"] > 0
    assert stop_effect(a_group(4), quiet=True)["grace_s"] == 0
