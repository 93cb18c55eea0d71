"""Nodes with NVIDIA GPUs, told by a stand-in for NVML: none of the tests needs a GPU."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from engine import warm
from engine.node_config import ConfigError, NodeConfig, parse_config
from engine.noded import inventory
from engine.runtime import environment, imports

GB = 1_000_000_000


class FakeNvml:
    """Two GPUs of 80 and 40 GB; `error`: what nvmlInit answers."""

    def __init__(self, count: int = 2, error: int | None = None) -> None:
        self.count, self.error, self.open = count, error, 0

    def nvmlInit(self) -> None:
        if self.error is not None:
            raise pynvml.NVMLError(self.error)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index >= self.count:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"H{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=(80 - 40 * handle) * GB, free=(70 - 40 * handle) * GB)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNvml:
    """The stand-in in NVML's place, and a driver that is loaded."""
    fake = FakeNvml()
    for name in dir(fake):
        if name.startswith("nvml"):
            monkeypatch.setattr(pynvml, name, getattr(fake, name))
    monkeypatch.setattr(environment, "DRIVER", tmp_path)
    return fake


def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no NVIDIA driver."""
    monkeypatch.setattr(environment, "DRIVER", Path("/nowhere/nvidia"))


def config(*devices: dict[str, Any]) -> NodeConfig:
    """A node with these devices configured."""
    return parse_config({"device": list(devices)}, {"HYDRANT_NODE": "a", "HYDRANT_HOME": "/srv"})


def test_every_gpu_is_found(nvml: FakeNvml) -> None:
    found = inventory.find_devices(config())
    assert [(d.index, d.kind, d.name, d.memory_bytes, d.gpu) for d in found] == [
        (0, "cuda", "H0", 80 * GB, 0),
        (1, "cuda", "H1", 40 * GB, 1),
    ]
    assert [inventory.free_bytes(device) for device in found] == [70 * GB, 30 * GB]
    assert nvml.open == 0
    assert warm.device_kind(config()) == "cuda"


def test_a_gpu_is_capped_and_chosen_as_configured(nvml: FakeNvml) -> None:
    devices = [{"kind": "cuda", "gpu": 1, "memory_gb": 30.0}, {"kind": "cuda", "gpu": 0, "memory_gb": 500.0}]
    assert [(d.gpu, d.memory_bytes) for d in inventory.find_devices(config(*devices))] == [(1, 30 * GB), (0, 80 * GB)]
    with pytest.raises(ConfigError, match="is the GPU there"):
        inventory.find_devices(config({"kind": "cuda", "gpu": 2}))


def test_kinds_are_not_mixed(nvml: FakeNvml) -> None:
    with pytest.raises(ConfigError, match="not both"):
        inventory.find_devices(config({"kind": "cuda"}, {"kind": "cpu"}))


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_without_a_driver_the_cores_are_the_device(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    nvml.error = error
    with pytest.raises(ConfigError, match="driver"):
        inventory.find_devices(config())
    no_driver(monkeypatch)
    assert [device.kind for device in inventory.find_devices(config())] == ["cpu"]
    assert warm.device_kind(config()) == "cpu"


@pytest.mark.parametrize("driver", [True, False])
def test_a_driver_in_trouble_is_no_cpu_node(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, driver: bool) -> None:
    # After an upgrade without a restart, say.
    nvml.error = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    if not driver:
        no_driver(monkeypatch)
    with pytest.raises(ConfigError, match="driver"):
        inventory.find_devices(config())


def test_noded_and_warm_never_disagree_unnoticed(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.count = 0
    with pytest.raises(ConfigError, match="shows no GPU"):
        inventory.find_devices(config())
    nvml.count = 2
    no_driver(monkeypatch)
    with pytest.raises(ConfigError, match=r"\[\[device\]\]"):
        inventory.find_devices(config())
    assert [d.kind for d in inventory.find_devices(config({"kind": "cuda"}))] == ["cuda"]
    assert warm.device_kind(config({"kind": "cuda"})) == "cuda"


def test_a_warm_runtime_that_touched_cuda_does_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    touched = False
    fake = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: touched))
    monkeypatch.setitem(sys.modules, "torch", fake)
    for name in imports.NOT_BEFORE_FORK:
        monkeypatch.delitem(sys.modules, name, raising=False)
    # Those of other tests' servers may still be ending in this process.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    imports.check_forkable()
    touched = True
    with pytest.raises(RuntimeError, match="CUDA"):
        imports.check_forkable()
