"""What is asked of a GPU before a fork does not initialize CUDA: real torch, stand-ins for NVML and CUDA."""

from __future__ import annotations

import json
import os
import subprocess

from support.engine_node import ENGINE_PYTHON, ROOT

PROGRAM = """
import json, os, sys, traceback, types
import torch

initialized = []
torch.version.cuda = "13.0"
torch.cuda.is_initialized = lambda: bool(initialized)
torch.cuda.device_count = lambda: 2
torch.cuda._lazy_init = lambda: initialized.append(True)
torch.cuda._get_device_index = lambda device, optional=False: device if isinstance(device, int) else 0
torch._C._cuda_getDevice = lambda: 0
torch.cuda._get_device_properties = lambda index: types.SimpleNamespace(
    major=9, minor=9, name=f"torch's {index}", multi_processor_count=132)
nvml = types.ModuleType("pynvml")
nvml.nvmlInit = nvml.nvmlShutdown = lambda: None
nvml.nvmlDeviceGetHandleByIndex = lambda index: index
nvml.nvmlDeviceGetName = lambda handle: f"NVML's {handle}"
nvml.nvmlDeviceGetCudaComputeCapability = lambda handle: (9, handle)
sys.modules["pynvml"] = nvml


def as_imports_ask():
    # sgl_kernel/load_utils.py, flashinfer/compilation_context.py, sglang's is_h20_device and quark.
    mine = torch.cuda.get_device_properties(torch.cuda.current_device())
    each = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    return [mine.major, mine.minor, each, torch.cuda.get_device_name(), torch.cuda.get_device_properties("cuda").minor]


def forked(work):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        try:
            os.write(theirs, json.dumps(work()).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(theirs)
    os.wait()
    return json.loads(os.read(ours, 65536))


def stage():
    os.environ["CUDA_VISIBLE_DEVICES"] = "1"
    torch.cuda.device_count = lambda: 1
    before = as_imports_ask()
    return [before, bool(initialized)]


def scheduler():
    torch.cuda._lazy_init()
    return as_imports_ask()


def wants_more():
    return [torch.cuda.get_device_properties(0).multi_processor_count, bool(initialized)]


def named_by_uuid():
    os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-8f1c"
    return [torch.cuda.get_device_name(0), bool(initialized)]


def without_nvml():
    sys.modules["pynvml"] = None
    return [torch.cuda.get_device_name(0), bool(initialized)]


def as_published():
    as_imports_ask()
    return bool(initialized)


from engine.runtime import gpu_facts

out = {"as published": forked(as_published)}
gpu_facts.install()
gpu_facts.install()
out["before"] = [as_imports_ask(), bool(initialized)]
for work in (stage, scheduler, wants_more, named_by_uuid, without_nvml):
    out[work.__name__] = forked(work)
print(json.dumps(out))
"""


def test_questions_before_the_fork_do_not_initialize_cuda() -> None:
    done = subprocess.run(
        [ENGINE_PYTHON, "-c", PROGRAM],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["as published"] is True, "torch itself initializes CUDA to answer"
    assert told["before"] == [[9, 0, [[9, 0], [9, 1]], "NVML's 0", 0], False]
    # It sees one GPU, which NVML counts as its second.
    assert told["stage"] == [[9, 1, [[9, 1]], "NVML's 1", 1], False]
    assert told["scheduler"] == [9, 9, [[9, 9], [9, 9]], "torch's 0", 9], "who uses the GPU is answered by torch"
    # Nothing is made up: torch answers what NVML does not know, and check_forkable sees that it was initialized.
    assert told["wants_more"] == [132, True]
    assert told["named_by_uuid"] == told["without_nvml"] == ["torch's 0", True]
