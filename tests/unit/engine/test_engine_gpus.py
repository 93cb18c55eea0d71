"""Nodes with NVIDIA GPUs, told by a stand-in for NVML: none of the tests needs a GPU."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from support.engine_node import ROOT

from engine import warm
from engine.node_config import ConfigError, NodeConfig, parse_config
from engine.noded import inventory
from engine.runtime import environment, gpu_facts, imports

GB = 1_000_000_000


class FakeNvml:
    """Two GPUs of 80 and 40 GB, with compute capability 9.0; `error`: what nvmlInit answers."""

    def __init__(self, count: int = 2, error: int | None = None) -> None:
        self.count, self.error, self.open = count, error, 0
        self.capabilities = [(9, 0), (9, 0)]
        self.divided: set[int] = set()

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

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        if handle == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(handle in self.divided), 0]

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return self.capabilities[handle]

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


def test_a_divided_gpu_is_refused_by_name(nvml: FakeNvml) -> None:
    nvml.divided = {1}
    with pytest.raises(ConfigError, match=r"GPU 1 is divided \(MIG\).* -i 1 -mig 0"):
        inventory.find_devices(config())
    assert [d.gpu for d in inventory.find_devices(config({"kind": "cuda", "gpu": 0}))] == [0]


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
    driver = False
    monkeypatch.setattr(gpu_facts, "driver_initialized", lambda: driver)
    for name in imports.NOT_BEFORE_FORK:
        monkeypatch.delitem(sys.modules, name, raising=False)
    # Those of other tests' servers may still be ending in this process.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    imports.check_forkable()
    touched = True
    with pytest.raises(gpu_facts.NotForkable, match="CUDA"):
        imports.check_forkable()
    touched, driver = False, True
    with pytest.raises(gpu_facts.NotForkable, match="CUDA"):
        imports.check_forkable()


class FakeDriver:
    """libcuda as it answers before (3) and after (0) cuInit."""

    def __init__(self, status: int) -> None:
        self.status = status

    def cuDeviceGetCount(self, count: object) -> int:
        return self.status


@pytest.mark.parametrize(("status", "initialized"), [(3, False), (0, True), (100, True)])
def test_the_driver_tells_whether_anybody_initialized_it(
    monkeypatch: pytest.MonkeyPatch, status: int, initialized: bool
) -> None:
    loaded: list[tuple[str, int]] = []

    def load(name: str, mode: int) -> FakeDriver:
        loaded.append((name, mode))
        return FakeDriver(status)

    assert not gpu_facts.driver_initialized(), "a process without libcuda"
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert gpu_facts.driver_initialized() == initialized
    assert loaded == [("libcuda.so.1", os.RTLD_NOLOAD)], "to look must not load it"


def test_gpus_of_two_generations_have_no_warm_runtime_in_common(nvml: FakeNvml) -> None:
    gpu_facts.check_one_generation(None)
    nvml.capabilities = [(9, 0), (8, 0)]
    gpu_facts.check_one_generation([1])
    for gpus in (None, [0, 1]):
        with pytest.raises(gpu_facts.NotForkable, match=r"H0 \(9.0\), H1 \(8.0\); set warm = false"):
            gpu_facts.check_one_generation(gpus)
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("named", "seen"), [(None, [0, 1]), ("1", [1]), ("1, 0", [1, 0]), ("", []), ("GPU-8f1c", []), ("MIG-8f1c,0", [])]
)
def test_only_gpus_that_are_named_by_numbers_are_looked_up(named: str | None, seen: list[int]) -> None:
    assert gpu_facts.visible_gpus({} if named is None else {"CUDA_VISIBLE_DEVICES": named}, 2) == seen


def test_a_runtime_that_cannot_fork_steps_aside(
    monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Replaced(Exception):
        """What os.execv does to a program: it does not come back."""

    def execv(program: str, argv: list[str]) -> None:
        raise Replaced(argv[-1])

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(os, "environ", {"HYDRANT_HOME": str(tmp_path), "HYDRANT_NODE": "a"})
    monkeypatch.setattr(sys, "argv", ["warm"])
    served: list[dict[str, str]] = []
    monkeypatch.setattr(warm.warm, "serve", lambda *_: served.append(dict(os.environ)))
    assert warm.main() == 0
    assert served[0]["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in served[0], "each stage has its own"
    nvml.capabilities = [(9, 0), (8, 0)]
    with pytest.raises(Replaced, match=warm.IDLE):
        warm.main()
    assert "set warm = false" in capsys.readouterr().err
    assert len(served) == 1, "it went idle before it imported SGLang"


def test_what_the_warm_runtime_reads_before_it_sets_the_environment_has_no_torch() -> None:
    code = "import sys, engine.warm, engine.stage_main; print(sorted({'torch', 'sglang', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
