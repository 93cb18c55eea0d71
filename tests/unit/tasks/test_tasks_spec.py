"""What the planner reserves for a model is what its engine takes."""

import pytest
from support.clusters import GB, NOW, a_node
from support.registry_rows import small_manifest

from engine.flags import GPU_RESERVE_BYTES, gpu_fraction
from orchestrator.memory import GPU_CONTEXT_BYTES
from orchestrator.partition import split
from orchestrator.plan import plan
from orchestrator.types import ClusterState, Plan, PlanRequest
from registry.models import Model
from tasks.spec import model_spec

LLAMA_LAYER_BYTES = 404_766_720
K = 2_147_483_648
"""Llama2-7B: 32 layers, its embedding and its head of 262 MB each, a context of 4096 tokens of 512 KiB."""


def llama(dtype: str = "auto", file_dtype: str = "F16", **changes) -> Model:
    """Llama2-7B as registration would store it, each part as one tensor."""
    manifest = dict(small_manifest(layers=32))
    names = ["model.embed_tokens.weight", *(f"model.layers.{i}.w" for i in range(32)), "lm_head.weight"]
    sizes = [262_144_000, *[LLAMA_LAYER_BYTES] * 32, 262_152_192]
    manifest["tensors"] = [
        {"name": name, "file": "m", "begin": 0, "end": size, "dtype": file_dtype, "shape": [size // 2], "sha256": "0"}
        for name, size in zip(names, sizes, strict=True)
    ]
    values = {
        "name": "llama", "manifest": manifest, "settings": {"dtype": dtype}, "tied_embeddings": False,
        "weight_bytes": sum(sizes), "kv_reserve_bytes": K, "slo_ttft_ms": 1, "slo_tpot_ms": None, "profile": {},
        "max_stages": 4, "capacity": 8,
    }  # fmt: skip
    return Model(**(values | changes))


def plan_of(model: Model, stages: int, kind: str = "cuda") -> Plan:
    """A plan with exactly so many stages: what one stage fewer cannot reach in time."""
    spec = model_spec(model)
    cluster = ClusterState(tuple(a_node(f"n{i}", kind=kind) for i in range(4)), NOW)
    for slo_ms in range(2_000, 30_000, 250):
        outcome = plan(PlanRequest(model_spec(llama_with(model, slo_ms))), cluster)
        if isinstance(outcome, Plan) and outcome.s == stages and not outcome.degraded:
            return outcome
    raise AssertionError(f"no service level makes {stages} stages of {spec.name}")


def llama_with(model: Model, slo_ms: int) -> Model:
    model.slo_ttft_ms = slo_ms
    return model


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_a_gpu_reservation_leaves_weights_and_kv_share_after_what_the_engine_takes(stages):
    model = llama()
    outcome = plan_of(model, stages)
    for stage, part in zip(outcome.stages, split(model_spec(model), stages), strict=True):
        usable = stage.reserved_bytes - GPU_RESERVE_BYTES
        assert usable >= part.size_bytes + K * part.count // 32
        assert gpu_fraction(stage.reserved_bytes, 80 * GB) > 0
    for target in outcome.consolidate.targets if outcome.consolidate else ():
        assert target.memory_bytes - GPU_RESERVE_BYTES >= model_spec(model).weights_bytes + K


def test_the_planner_counts_what_the_engine_takes():
    assert GPU_CONTEXT_BYTES >= GPU_RESERVE_BYTES


def test_a_cpu_stage_has_no_cuda_context():
    model = llama()
    (stage,) = plan_of(model, 1, kind="cpu").stages
    assert stage.reserved_bytes == model_spec(model).weights_bytes + K


@pytest.mark.parametrize(
    ("dtype", "file_dtype", "times", "over"),
    [("float32", "F16", 2, 1), ("float16", "F16", 1, 1), ("auto", "BF16", 1, 1), ("float16", "F32", 1, 2)],
)
def test_memory_counts_weights_as_the_engine_holds_them_and_fetches_as_the_files_have_them(
    dtype, file_dtype, times, over
):
    model = llama(dtype, file_dtype)
    weights = model_spec(model).weights_bytes
    (stage,) = plan_of(model, 1).stages
    assert stage.reserved_bytes == weights * times // over + K + GPU_RESERVE_BYTES
    assert stage.fetch_bytes == weights == 262_144_000 + 32 * LLAMA_LAYER_BYTES + 262_152_192


def test_compressed_weights_are_fetched_as_they_lie_there_and_take_what_they_decode_to():
    model = llama("float16")
    plain = plan_of(model, 2)
    for tensor in model.manifest["tensors"]:
        tensor |= {"end": tensor["end"] * 2 // 3, "codec": "blosc"}
    compressed = plan_of(model, 2)
    for before, after in zip(plain.stages, compressed.stages, strict=True):
        assert after.fetch_bytes == pytest.approx(before.fetch_bytes * 2 / 3, rel=1e-6)
        assert after.reserved_bytes == pytest.approx(before.reserved_bytes, rel=1e-6)
