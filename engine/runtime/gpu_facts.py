"""What SGLang asks of a GPU before a process may use it, answered by NVML: torch would initialize CUDA to answer.

A process that has initialized CUDA cannot fork one that uses it. But while they are imported, sglang-kernel 0.4.10
(sgl_kernel/load_utils.py), flashinfer 0.7.2 (compilation_context.py) and kernels of SGLang 0.5.23
(fused_qk_rmsnorm_rope_gate.py) ask torch.cuda for the compute capability, and so does SGLang's reading of its arguments
(arg_groups/attention_hook.py). PYTORCH_NVML_BASED_CUDA_CHECK covers `is_available` and `device_count` only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import Any

CUDA_ERROR_NOT_INITIALIZED = 3
"""What every function of the CUDA driver answers in a process in which nobody has called cuInit."""


class NotForkable(RuntimeError):
    """Stages cannot be forked from this process; the message says why, and what to do."""


class Facts:
    """A GPU's properties as NVML knows them; any other is asked of torch, which initializes CUDA."""

    def __init__(self, gpu: int, ask_torch: Any = None) -> None:
        """`gpu`: its NVML index. Raises NVMLError."""
        import pynvml

        self._ask_torch = ask_torch
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(gpu)
            self.name = str(pynvml.nvmlDeviceGetName(handle))
            self.major, self.minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        finally:
            pynvml.nvmlShutdown()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ask_torch(), name)


def install() -> None:
    """Have torch.cuda answer from NVML as long as CUDA is not initialized in the asking process.

    For this process and its forks; one that begins to use its GPU (the scheduler, by `set_device`) gets torch's own
    answers from there on. Does nothing with a torch that was built without CUDA. (`get_device_capability` and
    `get_device_name` go through `get_device_properties`.)
    """
    import torch

    current, properties = torch.cuda.current_device, torch.cuda.get_device_properties
    if torch.version.cuda is None or getattr(properties, "asks_nvml", False):
        return

    def current_device() -> int:
        # Until set_device, which initializes CUDA, it is 0.
        return int(current()) if torch.cuda.is_initialized() else 0

    def get_device_properties(device: Any = None) -> Any:
        if not torch.cuda.is_initialized():
            ordinal = device if isinstance(device, int) else (device and torch.device(device).index) or 0
            gpus = visible_gpus(os.environ, torch.cuda.device_count())
            # Whatever keeps NVML from answering, torch answers, as it would without us.
            if 0 <= ordinal < len(gpus):
                with contextlib.suppress(Exception):
                    return Facts(gpus[ordinal], lambda: properties(device))
        return properties(device)

    get_device_properties.asks_nvml = True  # type: ignore[attr-defined]
    torch.cuda.current_device = current_device
    torch.cuda.get_device_properties = get_device_properties


def visible_gpus(environ: Mapping[str, str], count: int) -> list[int]:
    """NVML indices of the GPUs that this process sees, in its order; empty where they are not named by numbers."""
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(range(count))
    names = [name.strip() for name in named.split(",")]
    return [int(name) for name in names] if all(name.isdecimal() for name in names) else []


def check_one_generation(gpus: Sequence[int] | None) -> None:
    """Raise NotForkable if these GPUs (NVML indices; None: all there are) need different code of SGLang's kernels.

    It is chosen by an import, of which a warm runtime has one. Raises NVMLError.
    """
    import pynvml

    if gpus is None:
        pynvml.nvmlInit()
        gpus = range(pynvml.nvmlDeviceGetCount())
        pynvml.nvmlShutdown()
    facts = [Facts(gpu) for gpu in gpus]
    if len({(one.major, one.minor) for one in facts}) > 1:
        kinds = ", ".join(f"{one.name} ({one.major}.{one.minor})" for one in facts)
        raise NotForkable(f"these GPUs need different code, and a warm runtime has one: {kinds}; set warm = false")


def driver_initialized() -> bool:
    """Whether anything in this process, torch or not, has initialized CUDA's driver."""
    try:
        # Only if it is loaded already: to look must not load it.
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    status: int = driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))
    return status != CUDA_ERROR_NOT_INITIALIZED
