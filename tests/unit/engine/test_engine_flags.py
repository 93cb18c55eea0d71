"""The arguments and environment that a stage's SGLang is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import flags
from engine.flags import BadSettings, Settings, StagePlace, StageShape
from engine.sglang_plugin import hooks

GB = 1_000_000_000
SHAPE = StageShape(
    rank=0,
    world=1,
    layers=(30,),
    dist_address=None,
    port=31000,
    api_key="a-key-of-the-group",
    model_name="smol",
    memory_bytes=20 * GB,
    settings=Settings(),
)
CPU = StagePlace(kind="cpu", gpu=None, device_free_bytes=8 * GB, cores=(0, 1), host="127.0.0.1", interface="lo")
GPU = StagePlace(kind="cuda", gpu=3, device_free_bytes=80 * GB, cores=(), host="10.0.0.5", interface="eth0")


def value(argv: list[str], flag: str) -> str:
    """What follows `flag`, which must be there once."""
    assert argv.count(flag) == 1, (flag, argv)
    return argv[argv.index(flag) + 1]


@pytest.mark.parametrize("place", [CPU, GPU], ids=["cpu", "cuda"])
def test_every_stage_is_guarded_counted_and_named(place: StagePlace) -> None:
    argv = flags.arguments(SHAPE, place)
    assert value(argv, "--api-key") == "a-key-of-the-group"
    assert value(argv, "--served-model-name") == "smol"
    assert value(argv, "--host") == place.host
    assert value(argv, "--port") == "31000"
    assert {"--enable-metrics", "--enable-cache-report", "--skip-server-warmup", "--sleep-on-idle"} <= set(argv)
    assert "--model-path" not in argv


def test_a_cpu_stage_uses_plain_torch() -> None:
    argv = flags.arguments(SHAPE, CPU)
    assert value(argv, "--device") == "cpu"
    assert value(argv, "--dtype") == "float32"
    assert value(argv, "--attention-backend") == "torch_native"
    assert value(argv, "--max-total-tokens") == "8192"
    env = flags.environment(SHAPE, CPU)
    assert env["SGLANG_CPU_OMP_THREADS_BIND"] == "0,1"
    assert "CUDA_VISIBLE_DEVICES" not in env
    assert "SGLANG_PP_LAYER_PARTITION" not in env


def test_a_gpu_stage_sees_its_gpu_alone() -> None:
    argv = flags.arguments(SHAPE, GPU)
    assert value(argv, "--device") == "cuda"
    assert value(argv, "--base-gpu-id") == "0"
    assert value(argv, "--dtype") == "auto"
    assert not {"--attention-backend", "--max-total-tokens", "--disable-cuda-graph"} & set(argv)
    env = flags.environment(SHAPE, GPU)
    assert env["CUDA_VISIBLE_DEVICES"] == "3"
    assert env[hooks.GPU_BYTES_VARIABLE] == str(20 * GB)
    assert hooks.GPU_BYTES_VARIABLE not in flags.environment(SHAPE, CPU)
    assert env["NCCL_SOCKET_IFNAME"] == "eth0"
    assert "SGLANG_CPU_OMP_THREADS_BIND" not in env


@pytest.mark.parametrize("place", [CPU, GPU], ids=["cpu", "cuda"])
def test_a_rank_of_a_pipeline_knows_its_place(place: StagePlace) -> None:
    shape = replace(SHAPE, rank=2, world=3, layers=(11, 10, 9), dist_address="10.0.0.1:31001")
    argv = flags.arguments(shape, place)
    assert value(argv, "--pp-size") == value(argv, "--nnodes") == "3"
    assert value(argv, "--node-rank") == "2"
    assert value(argv, "--dist-init-addr") == "10.0.0.1:31001"
    assert flags.environment(shape, place)["SGLANG_PP_LAYER_PARTITION"] == "11,10,9"
    assert ("--disable-cuda-graph" in argv) == (place.kind == "cuda")


def test_a_whole_worker_joins_nobody() -> None:
    assert not {"--pp-size", "--nnodes", "--dist-init-addr"} & set(flags.arguments(SHAPE, GPU))


def test_settings_become_flags() -> None:
    settings = Settings(4096, "bfloat16", "none", "qwen25", "deepseek-r1", True)
    argv = flags.arguments(replace(SHAPE, settings=settings), CPU)
    assert value(argv, "--context-length") == "4096"
    assert value(argv, "--dtype") == "bfloat16"
    assert value(argv, "--grammar-backend") == "none"
    assert value(argv, "--tool-call-parser") == "qwen25"
    assert value(argv, "--reasoning-parser") == "deepseek-r1"
    assert "--is-embedding" in argv
    assert value(flags.arguments(SHAPE, CPU), "--grammar-backend") == "xgrammar"


def test_a_long_context_gets_room_for_two() -> None:
    assert flags.cpu_tokens(None) == 8192
    assert flags.cpu_tokens(2048) == 8192
    assert flags.cpu_tokens(32768) == 65536


@given(memory=st.integers(2 * GB, 80 * GB), free=st.integers(2 * GB, 80 * GB))
def test_the_gpu_fraction_is_of_the_reservation_whatever_is_free(memory: int, free: int) -> None:
    if memory > free:
        with pytest.raises(BadSettings, match="memory_bytes"):
            flags.gpu_fraction(memory, free)
        return
    fraction = flags.gpu_fraction(memory, free)
    assert 0 < fraction <= 0.95
    assert fraction * memory <= memory - flags.GPU_RESERVE_BYTES + 1
    assert fraction == flags.gpu_fraction(memory, 80 * GB)


def test_a_reservation_too_small_for_cuda_is_refused() -> None:
    with pytest.raises(BadSettings, match="CUDA itself"):
        flags.gpu_fraction(1 * GB, 80 * GB)


def test_absent_and_null_settings_are_the_same() -> None:
    assert Settings.from_json({"context_length": None, "dtype": None}) == Settings.from_json({}) == Settings()


@pytest.mark.parametrize(
    "bad",
    [
        {"context_length": 0},
        {"context_length": True},
        {"context_length": "4k"},
        {"dtype": "int8"},
        {"grammar_backend": "eval"},
        {"tool_parser": "--trust-remote-code"},
        {"reasoning_parser": 5},
        {"embedding": 1},
        {"api_key": "x"},
    ],
)
def test_what_is_not_on_the_allow_list_is_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(BadSettings, match=next(iter(bad))):
        Settings.from_json(bad)


def test_an_embedding_model_has_no_prefix_cache_that_tenants_would_share() -> None:
    shape = replace(SHAPE, settings=Settings(embedding=True))
    assert {"--is-embedding", "--disable-radix-cache"} <= set(flags.arguments(shape, GPU))
    assert "--disable-radix-cache" not in flags.arguments(SHAPE, GPU)
