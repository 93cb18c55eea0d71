"""SGLang's platform for machines without a GPU: plain CPU torch, no compiled SGLang kernels.

SGLang's own CPU engine needs its compiled kernel package; an out-of-tree platform with native dispatch does not. Chosen
by `SGLANG_PLATFORM=hydrant_cpu` (entry-point group `sglang.srt.platforms`).
"""

from __future__ import annotations

from typing import Any

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

NAME = "hydrant_cpu"
"""Entry-point name, the value of SGLANG_PLATFORM."""


class HydrantCpuPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]
    """CPU torch with native operators and gloo between ranks."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"

    def get_default_attention_backend(self) -> str:
        """The attention backend that needs nothing but torch."""
        return "torch_native"

    def get_dispatch_key_name(self) -> str:
        """Fused operators run their `forward_native`."""
        return "native"

    def is_pin_memory_available(self, device: Any = None) -> bool:
        """Host memory is the device memory: nothing to pin."""
        return False


def activate() -> str:
    """Entry point: the dotted name of the platform class."""
    return f"{HydrantCpuPlatform.__module__}.{HydrantCpuPlatform.__qualname__}"
