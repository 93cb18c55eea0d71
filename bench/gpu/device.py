"""What is measured on: a CUDA device, or host memory in its place to check that the measuring itself works."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from bench.gpu.nvidia_smi import nvidia_smi
from engine.weights import pinned_ring

PORTABLE = 1
"""cudaHostRegisterPortable."""


class CannotMeasure(Exception):
    """This machine cannot be measured; the message says what is missing, and what to do."""


class Ops(Protocol):
    """What the measurements do with a device."""

    name: str
    """As torch and safetensors call it."""
    ring: pinned_ring.Device

    def describe(self) -> dict[str, Any]:
        """What it is: the more, the better."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor in its memory."""

    def synchronize(self) -> None:
        """Return when the device has nothing left to do."""

    def forget(self) -> None:
        """Give back device memory that no tensor uses."""

    def register(self, tensor: torch.Tensor) -> None:
        """Pin the memory of a host tensor as it is. Raises CannotMeasure."""

    def unregister(self, tensor: torch.Tensor) -> None:
        """Take that back."""

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Memory that was pinned when it was made."""


class CudaOps:
    """The first CUDA device that this process sees."""

    name = "cuda:0"

    def __init__(self) -> None:
        """Raises CannotMeasure when there is none."""
        if torch.version.cuda is None:
            raise CannotMeasure(
                f"torch {torch.__version__} is built without CUDA. Run this on a machine with an NVIDIA GPU, with a "
                "torch for CUDA (on a GPU server of Hydrant's: deploy/setup.sh gpu, then make bench-gpu)"
            )
        if not torch.cuda.is_available():
            raise CannotMeasure(
                "torch finds no CUDA device. Is there an NVIDIA GPU (nvidia-smi), does its driver fit this torch "
                f"({torch.version.cuda}), and is CUDA_VISIBLE_DEVICES not empty?"
            )
        self.ring: pinned_ring.Device = pinned_ring.Cuda()

    def describe(self) -> dict[str, Any]:
        """Name, memory, driver, link, versions. What nvidia-smi does not tell is null."""
        properties = torch.cuda.get_device_properties(0)
        return {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
        } | nvidia_smi(str(getattr(properties, "uuid", "")))

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor in its memory."""
        return torch.empty(shape, dtype=dtype, device=self.name)

    def synchronize(self) -> None:
        """Return when the device has nothing left to do."""
        torch.cuda.synchronize()

    def forget(self) -> None:
        """Give back device memory that no tensor uses."""
        torch.cuda.empty_cache()

    def register(self, tensor: torch.Tensor) -> None:
        """Pin the memory of a host tensor as it is. Raises CannotMeasure."""
        status = int(torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, PORTABLE))
        if status:
            # The runtime keeps a failure for whoever asks next; a kernel's launch asks.
            with contextlib.suppress(RuntimeError):
                torch.ones(1, device=self.name)
            raise CannotMeasure(f"cudaHostRegister: CUDA error {status}")

    def unregister(self, tensor: torch.Tensor) -> None:
        """Take that back."""
        torch.cuda.cudart().cudaHostUnregister(tensor.data_ptr())

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Memory that was pinned when it was made."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


class HostOps:
    """Host memory in the place of a device: it shows that the measuring works, and nothing about a GPU."""

    name = "cpu"

    def __init__(self) -> None:
        self._storages: set[int] = set()
        self.ring: pinned_ring.Device = _HostRing(self._storages)
        self.registered: list[int] = []

    def describe(self) -> dict[str, Any]:
        """That it is none."""
        return {"device": "none: host memory in its place", "torch": torch.__version__}

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor that counts as the device's."""
        made = torch.empty(shape, dtype=dtype)
        self._storages.add(made.untyped_storage().data_ptr())
        return made

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def forget(self) -> None:
        """Nothing is kept."""

    def register(self, tensor: torch.Tensor) -> None:
        """Remember it."""
        self.registered.append(tensor.data_ptr())

    def unregister(self, tensor: torch.Tensor) -> None:
        """Forget it. Raises ValueError if it was not registered."""
        self.registered.remove(tensor.data_ptr())

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Memory."""
        return torch.empty(nbytes, dtype=torch.uint8)


class _HostRing:
    """Copies at once, to tensors that count as the device's."""

    def __init__(self, storages: set[int]) -> None:
        self._storages = storages

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._storages

    def pinned(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        destination.copy_(source)

    def record(self) -> Any:
        return SimpleNamespace(synchronize=lambda: None)

    def release_pinned(self) -> None:
        pass
