"""What devices this node has: NVIDIA GPUs through NVML, or CPU cores as a device of their own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import psutil
import pynvml
import structlog

from engine.node_config import ConfigError, DeviceConfig, NodeConfig
from engine.runtime import environment
from engine.runtime.environment import DeviceKind

T = TypeVar("T")
ASSUMED_LINK_BPS = 1_250_000_000
"""10 Gbit/s."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Device:
    """One device. `memory_bytes` is what models may use; `cores` its engines are pinned to, empty for no pinning."""

    index: int
    kind: DeviceKind
    name: str
    memory_bytes: int
    cores: tuple[int, ...]
    gpu: int | None

    def as_json(self) -> dict[str, Any]:
        """As the report shows it."""
        return {
            "index": self.index,
            "kind": self.kind,
            "name": self.name,
            "memory_bytes": self.memory_bytes,
            "cores": list(self.cores),
        }


def find_devices(config: NodeConfig) -> list[Device]:
    """The node's devices, as configured or, without a configuration, as found. Raises ConfigError."""
    configured = config.devices or tuple(_found())
    devices = [_device(index, device) for index, device in enumerate(configured)]
    if len({device.kind for device in devices}) > 1:
        raise ConfigError(
            "[[device]]: a node has either GPUs or CPU devices, not both: its warm runtime is made for one"
        )
    return devices


def free_bytes(device: Device) -> int:
    """Memory that is free on the device now."""
    if device.gpu is None:
        return min(device.memory_bytes, int(psutil.virtual_memory().available))
    return _with_nvml(lambda: int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(device.gpu)).free))


def interface_of(address: str) -> str | None:
    """Name of the network interface that carries `address`; None when no interface does (a NAT address)."""
    try:
        wanted = {info[4][0] for info in socket.getaddrinfo(address, None)}
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address in wanted for entry in addresses):
            return name
    return None


def link_bps(config: NodeConfig) -> int:
    """What a planner may count on of the node's link, in bytes/s: as configured, else as fast as its interface says.

    An interface that does not say (a virtual one) is taken for ASSUMED_LINK_BPS, and noded's log says so.
    """
    if config.link_bps is not None:
        return config.link_bps
    interface = interface_of(config.address)
    told = psutil.net_if_stats().get(interface or "")
    if told is not None and told.speed > 0:
        return told.speed * 1_000_000 // 8
    log.warning(
        "the link's speed is not known; set link_gbps in the node's configuration",
        interface=interface,
        assumed_gbps=ASSUMED_LINK_BPS * 8 / 1e9,
    )
    return ASSUMED_LINK_BPS


def _found() -> list[DeviceConfig]:
    """Every GPU; on a machine without the NVIDIA driver, one CPU device with all cores. Raises ConfigError.

    A driver that does not answer is never taken for none: its node would serve from the CPU, and nobody would notice.
    """
    count = _count()
    if environment.driver_loaded():
        if not count:
            raise ConfigError(
                "the NVIDIA driver is loaded but shows no GPU; mend it, or name the devices in [[device]]"
            )
        return [DeviceConfig("cuda", (), None, gpu) for gpu in range(count)]
    if count:
        # The warm runtime, which has no NVML, would take this for a machine without GPUs.
        raise ConfigError(f"NVML shows GPUs but there is no {environment.DRIVER}; name the GPUs in [[device]]")
    return [DeviceConfig("cpu", tuple(sorted(os.sched_getaffinity(0))), None, None)]


def _count() -> int:
    """GPUs that NVML shows; 0 when there is neither its library nor the driver. Raises ConfigError."""
    try:
        return _with_nvml(lambda: int(pynvml.nvmlDeviceGetCount()))
    except ConfigError as error:
        absent = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        cause = error.__cause__
        if isinstance(cause, pynvml.NVMLError) and cause.value in absent and not environment.driver_loaded():
            return 0
        raise


def _device(index: int, config: DeviceConfig) -> Device:
    available = os.sched_getaffinity(0)
    if missing := sorted(set(config.cores) - available):
        raise ConfigError(
            f"[[device]] number {index + 1}: core {missing[0]} is not one of this machine's {sorted(available)}"
        )
    if config.kind == "cpu":
        memory = config.memory_bytes or int(psutil.virtual_memory().total)
        cores = config.cores or tuple(sorted(available))
        name = f"CPU, {len(cores)} core" + "s" * (len(cores) > 1)
        return Device(index, "cpu", name, memory, cores, None)
    gpu = cast(int, config.gpu)
    name, total = _with_nvml(lambda: _gpu(gpu))
    return Device(index, "cuda", name, min(config.memory_bytes or total, total), config.cores, gpu)


def _gpu(gpu: int) -> tuple[str, int]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(gpu)
    if _divided(handle):
        # Its number would show a stage one of the parts, while NVML tells the memory of the whole.
        raise ConfigError(
            f"GPU {gpu} is divided (MIG), and Hydrant gives models whole GPUs or shares of their memory: undo it "
            f"(nvidia-smi -i {gpu} -mig 0), or leave this GPU out of [[device]]"
        )
    return str(pynvml.nvmlDeviceGetName(handle)), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)


def _divided(handle: Any) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
            return False
        raise
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _with_nvml(ask: Callable[[], T]) -> T:
    try:
        pynvml.nvmlInit()
        try:
            return ask()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise ConfigError(
            f"the NVIDIA driver does not answer ({error}); is it installed, and is the GPU there?"
        ) from error
