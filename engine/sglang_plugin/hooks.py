"""Hooks into SGLang 0.5.23, registered through its entry-point group `sglang.srt.plugins`.

They bring a stage's tensors in as they land, keep it within its share of a GPU, tell the node daemon when loading and
readiness happen, keep the worker's key out of the log, and make its HTTP border fit for tenants. Without Hydrant's
environment variables the hooks for stages step aside and SGLang behaves as published.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.sglang_plugin import inputs, overlapped_load, rendezvous, responses, signals
from engine.sglang_plugin.listening import wait_until_listening

LOAD_SPEC_VARIABLE = "HYDRANT_LOAD_SPEC"
"""Path of the file that tells engine.weights.reader which tensors this stage has and where they land."""

GPU_BYTES_VARIABLE = "HYDRANT_GPU_BYTES"
"""Bytes of the GPU that are this stage's."""

LISTEN_TIMEOUT_S = 60.0
"""The HTTP port is bound milliseconds after SGLang starts this thread; a minute means that it never will be."""


def register() -> None:
    """Entry point: register every hook."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    around, after = HookType.AROUND, HookType.AFTER
    register_hook = HookRegistry.register
    loader = "sglang.srt.model_loader.loader.DefaultModelLoader"
    register_hook(f"{loader}._get_weights_iterator", read_weights, around)
    register_hook(f"{loader}.load_weights_and_postprocess", overlapped_load.load_beside, around)
    register_hook("sglang.srt.model_executor.model_runner.ModelRunner.forward", overlapped_load.wait_for_load, around)
    scheduler = "sglang.srt.managers.scheduler.Scheduler"
    register_hook(f"{scheduler}.init_all_cuda_graphs", overlapped_load.wait_before_capture, around)
    environment = "sglang.srt.distributed.parallel_state.init_distributed_environment"
    register_hook(environment, rendezvous.wait_for_first_rank, around)
    register_hook("sglang.srt.utils.hf_transformers.tokenizer.get_tokenizer", load_tokenizer_once, around)
    register_hook("sglang.srt.entrypoints.engine.Engine._launch_scheduler_processes", load_tokenizer_first, around)
    register_hook("sglang.srt.utils.common.get_available_gpu_memory", within_reservation, after)
    register_hook("sglang.srt.managers.load_snapshot.shm_path_for", keep_in_own_directory, after)
    register_hook("sglang.srt.entrypoints.http_server._freeze_gc_after_server_warmup", first_rank_is_up, around)
    register_hook("sglang.srt.entrypoints.engine.launch_dummy_health_check_server", later_rank_is_up, after)
    register_hook("sglang.srt.entrypoints.engine._server_args_for_logging", without_secrets, after)
    manager = "sglang.srt.managers.tokenizer_manager.TokenizerManager"
    register_hook(f"{manager}._validate_one_request", inputs.only_known_tokens, around)
    register_hook(f"{manager}._validate_one_request", inputs.only_what_it_does, around)
    register_hook(f"{manager}._validate_for_matryoshka_dim", inputs.without_path, around)
    openai = "sglang.srt.entrypoints.openai"
    embedding = f"{openai}.serving_embedding.OpenAIServingEmbedding"
    register_hook(f"{embedding}._build_embedding_response", inputs.named_as_served, after)
    serving = f"{openai}.serving_responses.OpenAIServingResponses"
    register_hook(f"{serving}.responses_stream_generator_non_harmony", responses.tell_running_usage, around)
    register_hook(f"{serving}.responses_full_generator", responses.tell_failures_apart, around)
    register_hook(f"{openai}.protocol.ResponsesRequest.to_sampling_params", responses.all_tokens, after)


def read_weights(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
    """(name, tensor) pairs of this stage, in load order, each as soon as its bytes are there."""
    load_spec = os.environ.get(LOAD_SPEC_VARIABLE)
    if not load_spec:
        yield from original(*args, **kwargs)
        return
    from engine.weights import reader

    signals.emit("load_start")
    yield from reader.iterate(Path(load_spec))
    signals.emit("load_end")


_tokenizers: dict[str, Any] = {}


def load_tokenizer_once(original: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
    """The tokenizer of the directory `name`, loaded on the first call and kept."""
    if name not in _tokenizers:
        _tokenizers[name] = original(name, *args, **kwargs)
    return _tokenizers[name]


def load_tokenizer_first(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Load the tokenizer before the stage's other processes are forked.

    They inherit it; otherwise all three load it at the same time, on the cores of one device.
    """
    if os.environ.get(signals.EVENTS_VARIABLE):
        from sglang.srt.runtime_context import get_model, get_serving
        from sglang.srt.utils.hf_transformers import tokenizer

        serving, model = get_serving(), get_model()
        tokenizer.get_tokenizer(
            serving.tokenizer_path,
            tokenizer_mode=serving.tokenizer_mode,
            trust_remote_code=model.trust_remote_code,
            revision=model.revision,
            tokenizer_backend=serving.tokenizer_backend,
        )
    return original(*args, **kwargs)


def within_reservation(free_gib: float, device: str, gpu_id: int, *args: Any, **kwargs: Any) -> float:
    """What is free on the GPU, in GiB, as if the stage's reservation were all of it.

    SGLang sizes its KV cache from what is free on the whole device before and after it loads; with neighbours that
    start at the same time it would get another share than it was promised. Its own part is what torch holds.
    """
    reserved = os.environ.get(GPU_BYTES_VARIABLE)
    if not reserved or device != "cuda":
        return free_gib
    import torch

    return min(free_gib, (int(reserved) - int(torch.cuda.memory_reserved(gpu_id))) / (1 << 30))


def keep_in_own_directory(path: str, *args: Any, **kwargs: Any) -> str:
    """Where SGLang shares its load figures: not in /dev/shm but in the stage's temporary directory, which is swept."""
    if not os.environ.get(signals.EVENTS_VARIABLE):
        return path
    return str(Path(os.environ["TMPDIR"]) / Path(path).name)


def first_rank_is_up(original: Callable[..., Any], server_args: Any, *args: Any, **kwargs: Any) -> Any:
    """Signal that the rank which serves HTTP is up.

    With the warm-up request off, SGLang comes here possibly before its port is bound.
    """
    wait_until_listening(server_args.host, server_args.port, LISTEN_TIMEOUT_S)
    signals.emit("up")
    return original(server_args, *args, **kwargs)


def later_rank_is_up(result: Any, *args: Any, **kwargs: Any) -> None:
    """Signal that a rank behind the first is up, which SGLang shows by starting its stand-in health server."""
    signals.emit("up")


def without_secrets(shown: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The server arguments that SGLang logs at start, keys masked."""
    return {name: "***" if name.endswith("api_key") and value else value for name, value in shown.items()}
