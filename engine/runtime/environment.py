"""Environment variables that torch and SGLang read while they are imported: the same for every stage of a node."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

DeviceKind = Literal["cpu", "cuda"]

DRIVER = Path("/proc/driver/nvidia")
"""There when the kernel has loaded the NVIDIA driver."""

CPU_PLATFORM = "hydrant_cpu"
"""Our platform's entry-point name (engine.sglang_plugin.platform)."""


def driver_loaded() -> bool:
    """Whether a node without configured devices is one with GPUs: noded and the warm runtime both go by this."""
    return DRIVER.exists()


def node_environment(kind: DeviceKind) -> dict[str, str]:
    """Variables for the warm runtime and for plainly started stages on a node with devices of `kind`."""
    common = {
        # The parent of forks must not hold a CUDA context; asking NVML instead of CUDA does not make one.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        # Nothing may look for a model anywhere but in the directory it was given.
        "HF_HUB_OFFLINE": "1",
        # Thread pools made before a fork do not exist after it.
        "TOKENIZERS_PARALLELISM": "false",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if kind == "cuda":
        return common
    return common | {
        "SGLANG_PLATFORM": CPU_PLATFORM,
        "TORCH_COMPILE_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        # An idle wait that spins would take the core from the neighbour.
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_VISIBLE_DEVICES": "",
    }
