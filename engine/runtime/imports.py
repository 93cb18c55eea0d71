"""Everything SGLang imports on its way to serving, imported once, before any fork."""

from __future__ import annotations

import importlib
import importlib.metadata
import multiprocessing.context
import sys
import threading

from engine.runtime import gpu_facts
from engine.runtime.gpu_facts import NotForkable

MODULES = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
    # Scans every model file, which would otherwise cost each stage most of a second.
    "sglang.srt.models.registry",
)

NOT_BEFORE_FORK = ("prometheus_client",)
"""Chooses its storage when imported, by PROMETHEUS_MULTIPROC_DIR, which is each stage's own."""


def import_engine() -> None:
    """Import SGLang and apply Hydrant's hooks. About 6 s on two cores; leaves the process single-threaded.

    The environment of engine.runtime.environment must be set already.

    Raises NotForkable if an import did something that a fork cannot live with.
    """
    from engine.sglang_plugin import torchvision_shim

    torchvision_shim.install()
    gpu_facts.install()
    for name in MODULES:
        importlib.import_module(name)
    from sglang.srt.plugins import load_plugins

    load_plugins()
    fork_instead_of_spawn()
    check_forkable()


def check_forkable() -> None:
    """Raise NotForkable if a fork of this process would be broken: see NOT_BEFORE_FORK, and what is said here."""
    import torch

    if threading.active_count() > 1:
        raise NotForkable(f"importing SGLang started threads, a fork would lose them: {threading.enumerate()}")
    early = [name for name in NOT_BEFORE_FORK if name in sys.modules]
    if early:
        raise NotForkable(f"{', '.join(early)} must not be imported before the fork")
    if torch.cuda.is_initialized() or gpu_facts.driver_initialized():
        raise NotForkable(
            "importing SGLang initialized CUDA, which no fork can use; is PYTORCH_NVML_BASED_CUDA_CHECK set?"
        )


def fork_instead_of_spawn() -> None:
    """Make multiprocessing's "spawn" mean "fork", so that SGLang's own processes start from what is imported already.

    SGLang asks for "spawn" by name (entrypoints/engine.py, _set_envs_and_config) because its launcher might have
    touched CUDA; a stage has not.
    """
    contexts = multiprocessing.context._concrete_contexts  # type: ignore[attr-defined]
    contexts["spawn"] = contexts["fork"]


def engine_version() -> str:
    """Name and version of the engine, for people."""
    return f"sglang {importlib.metadata.version('sglang')}"
