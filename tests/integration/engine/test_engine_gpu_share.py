"""What SGLang takes for the memory of a GPU, in SGLang's own functions with a stand-in for CUDA: no GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess

from support.engine_node import ENGINE_PYTHON, ROOT

from engine import flags
from engine.runtime.environment import node_environment

GIB = 1 << 30

PROGRAM = """
import json, os, sys
from types import SimpleNamespace
import torch
from engine.sglang_plugin import torchvision_shim
torchvision_shim.install()
from sglang.srt.utils import common
from sglang.srt.plugins.hook_registry import HookRegistry
from engine.sglang_plugin import hooks

hooks.register()
wanted = "sglang.srt.utils.common.get_available_gpu_memory"
HookRegistry._hooks = {wanted: HookRegistry._hooks[wanted]}
HookRegistry.apply_hooks()
free, own = 0, 0
torch.cuda.device_count = lambda: 1
torch.cuda.current_device = lambda: 0
torch.cuda.empty_cache = lambda: None
torch.cuda.get_device_properties = lambda gpu: SimpleNamespace(is_integrated=False)
torch.cuda.mem_get_info = lambda gpu: (free, 80 << 30)
torch.cuda.memory_reserved = lambda gpu: own
seen = []
for reserved, free, own in json.loads(sys.argv[1]):
    os.environ.pop(hooks.GPU_BYTES_VARIABLE, None)
    if reserved is not None:
        os.environ[hooks.GPU_BYTES_VARIABLE] = str(reserved)
    seen.append(common.get_available_gpu_memory("cuda", 0, empty_cache=False))
print(json.dumps(seen))
"""


def seen(*moments: tuple[int | None, int, int]) -> list[float]:
    """GiB that SGLang believes free, each time for (bytes reserved, free on the device, held by the engine itself)."""
    environ = os.environ | node_environment("cpu") | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [ENGINE_PYTHON, "-c", PROGRAM, json.dumps(moments)],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_neighbour_that_starts_at_the_same_time_does_not_change_the_share() -> None:
    reserved = 20 * GIB
    before, after, scarce, alone = seen(
        (reserved, 80 * GIB, 0),
        # 8 GiB of weights are loaded, while a neighbour takes 50 GiB.
        (reserved, 22 * GIB, 8 * GIB),
        (reserved, 5 * GIB, 0),
        (None, 80 * GIB, 0),
    )
    assert (before, after) == (20, 12)
    # SGLang's own sum (kv_cache_configurator.py, _profile_available_bytes).
    cache = after - before * (1 - flags.gpu_fraction(reserved, 80 * GIB))
    assert abs(cache - (reserved - flags.GPU_RESERVE_BYTES - 8 * GIB) / GIB) < 0.01
    assert scarce == 5, "what is not there is not taken"
    assert alone == 80, "without Hydrant nothing changes"
