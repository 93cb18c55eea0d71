"""SGLang's arguments and environment for one stage. Pure.

Flag names and meanings: SGLang 0.5.23, `python -m sglang.launch_server --help` (sglang/srt/server_args.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.runtime.environment import DeviceKind
from engine.sglang_plugin.hooks import GPU_BYTES_VARIABLE

CPU_DEFAULT_TOKENS = 8192
"""KV cache of a CPU stage, in tokens, at least. Every page of it is touched at the start."""

CPU_MEMORY_FRACTION = 0.5
"""On a CPU the token count bounds the KV cache; the fraction, of what is free on the whole machine, must only not be
in the way when several engines start at once."""

GPU_RESERVE_BYTES = 1_500_000_000
"""Of a GPU reservation, what is neither weights nor KV cache: the CUDA context and activations."""

DIST_TIMEOUT_S = 300
"""How long a rank waits for the others to appear, and for one that has fallen silent."""

MAX_RUNNING_ON_CPU = 8

GRAMMAR_BACKENDS = ("xgrammar", "outlines", "llguidance", "none")
DTYPES = ("auto", "float32", "float16", "bfloat16")
_PARSER = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class BadSettings(ValueError):
    """An engine setting is not on the allow-list or has a wrong value; the message names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A model's engine settings, all that may be chosen. None: the default. `context_length` is in tokens."""

    context_length: int | None = None
    dtype: str | None = None
    grammar_backend: str | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    embedding: bool = False

    @staticmethod
    def from_json(obj: Mapping[str, Any]) -> Settings:
        """Parse the `settings` of a launch effect. Raises BadSettings; a None value counts as absent."""
        given = {name: value for name, value in obj.items() if value is not None}
        known = set(Settings.__dataclass_fields__)
        if unknown := sorted(set(given) - known):
            raise BadSettings(f"settings.{unknown[0]}: unknown; known are {', '.join(sorted(known))}")
        length = given.get("context_length")
        if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
            raise BadSettings("settings.context_length: expected a number of tokens, at least 1")
        for name, allowed in (("dtype", DTYPES), ("grammar_backend", GRAMMAR_BACKENDS)):
            if name in given and given[name] not in allowed:
                raise BadSettings(f"settings.{name}: expected one of {', '.join(allowed)}")
        for name in ("tool_parser", "reasoning_parser"):
            if name in given and not (isinstance(given[name], str) and _PARSER.fullmatch(given[name])):
                raise BadSettings(f"settings.{name}: expected the name of one of SGLang's parsers")
        if not isinstance(given.get("embedding", False), bool):
            raise BadSettings("settings.embedding: expected true or false")
        return Settings(**given)


@dataclass(frozen=True, slots=True)
class StagePlace:
    """Where one stage runs: at the address `host`, which the network interface `interface` carries."""

    kind: DeviceKind
    gpu: int | None
    device_free_bytes: int
    cores: tuple[int, ...]
    host: str
    interface: str | None


@dataclass(frozen=True, slots=True)
class StageShape:
    """What one stage is: rank of `world` ranks, `layers` of each rank, its ports and reservation."""

    rank: int
    world: int
    layers: tuple[int, ...]
    dist_address: str | None
    port: int
    api_key: str
    model_name: str
    memory_bytes: int
    settings: Settings


def arguments(shape: StageShape, place: StagePlace) -> list[str]:
    """SGLang's command-line arguments, all but `--model-path`. They hold the worker's key: never log them."""
    settings = shape.settings
    argv = [
        "--host", place.host,
        "--port", str(shape.port),
        "--api-key", shape.api_key,
        "--served-model-name", shape.model_name,
        "--enable-metrics",
        "--enable-cache-report",
        "--skip-server-warmup",
        "--log-level-http", "warning",
        "--grammar-backend", settings.grammar_backend or "xgrammar",
    ]  # fmt: skip
    if settings.context_length is not None:
        argv += ["--context-length", str(settings.context_length)]
    if settings.tool_parser is not None:
        argv += ["--tool-call-parser", settings.tool_parser]
    if settings.reasoning_parser is not None:
        argv += ["--reasoning-parser", settings.reasoning_parser]
    if settings.embedding:
        # Without a prefix cache: SGLang knows no cache salt here, so one tenant could time what another has asked.
        argv += ["--is-embedding", "--disable-radix-cache"]
    argv += _on_cpu(settings) if place.kind == "cpu" else _on_gpu(shape, place)
    if shape.world > 1:
        if shape.dist_address is None:
            raise ValueError("a stage of several needs dist_address")
        argv += [
            "--pp-size", str(shape.world),
            "--nnodes", str(shape.world),
            "--node-rank", str(shape.rank),
            "--dist-init-addr", shape.dist_address,
            "--dist-timeout", str(DIST_TIMEOUT_S),
        ]  # fmt: skip
    return argv


def _on_cpu(settings: Settings) -> list[str]:
    return [
        "--device", "cpu",
        "--dtype", settings.dtype or "float32",
        "--attention-backend", "torch_native",
        "--sampling-backend", "pytorch",
        "--cuda-graph-backend-decode", "disabled",
        "--cuda-graph-backend-prefill", "disabled",
        "--mem-fraction-static", str(CPU_MEMORY_FRACTION),
        "--max-total-tokens", str(cpu_tokens(settings.context_length)),
        "--max-running-requests", str(MAX_RUNNING_ON_CPU),
        # Without it an idle scheduler burns a core.
        "--sleep-on-idle",
    ]  # fmt: skip


def cpu_tokens(context_length: int | None) -> int:
    """Tokens of KV cache on a CPU: two full contexts, at least CPU_DEFAULT_TOKENS."""
    return max(CPU_DEFAULT_TOKENS, 2 * (context_length or 0))


def _on_gpu(shape: StageShape, place: StagePlace) -> list[str]:
    argv = [
        "--device", "cuda",
        "--dtype", shape.settings.dtype or "auto",
        # CUDA_VISIBLE_DEVICES leaves the stage one GPU to see.
        "--base-gpu-id", "0",
        "--mem-fraction-static", f"{gpu_fraction(shape.memory_bytes, place.device_free_bytes):.3f}",
        "--sleep-on-idle",
    ]  # fmt: skip
    if shape.world > 1:
        # A pipeline serves until it is consolidated; capturing graphs would take longer than they save.
        argv.append("--disable-cuda-graph")
    return argv


def gpu_fraction(memory_bytes: int, free_bytes: int) -> float:
    """--mem-fraction-static: weights and KV cache as a share of the reservation.

    SGLang takes (free at start) * fraction - weights for the KV cache, and engine.sglang_plugin.hooks shows it the
    reservation as what is free at the start. Raises BadSettings when the reservation does not fit.
    """
    usable = memory_bytes - GPU_RESERVE_BYTES
    if usable <= 0 or memory_bytes > free_bytes:
        raise BadSettings(
            f"memory_bytes: {memory_bytes} reserved, {free_bytes} free on the device, "
            f"and CUDA itself takes {GPU_RESERVE_BYTES}"
        )
    return min(0.95, usable / memory_bytes)


def environment(shape: StageShape, place: StagePlace) -> dict[str, str]:
    """Variables of this stage alone, on top of engine.runtime.environment.node_environment."""
    env = {"SGLANG_HOST_IP": place.host}
    if place.interface is not None:
        env |= {"GLOO_SOCKET_IFNAME": place.interface, "NCCL_SOCKET_IFNAME": place.interface}
    if shape.world > 1:
        env["SGLANG_PP_LAYER_PARTITION"] = ",".join(str(count) for count in shape.layers)
    if place.kind == "cpu" and place.cores:
        # Without it SGLang wants a NUMA node for every rank of the pipeline. The pinning is done before, by us.
        env["SGLANG_CPU_OMP_THREADS_BIND"] = ",".join(str(core) for core in place.cores)
    if place.kind == "cuda":
        env["CUDA_VISIBLE_DEVICES"] = str(place.gpu)
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        env[GPU_BYTES_VARIABLE] = str(shape.memory_bytes)
    return env
