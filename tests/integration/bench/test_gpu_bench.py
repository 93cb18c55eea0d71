"""The GPU benchmark on a machine without one: it says what it needs, and its measuring works on host memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.engine_node import ENGINE_PYTHON, ROOT

RESULTS = ROOT / "bench/results/gpu.json"
CORRUPT = """
import sys
from bench.gpu import device, forks
copy = device._HostRing.copy
def wrong(self, destination, source):
    copy(self, destination, source)
    destination.view(-1)[-1:].neg_()
device._HostRing.copy = wrong
forks.Forks.round = lambda self: None
sys.argv = ["bench.gpu", "--check-harness", "--rounds", "2"]
from bench.gpu.__main__ import main
sys.exit(main())
"""


def run(python: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program, to its end."""
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [python, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.parametrize(("python", "says"), [(ENGINE_PYTHON, "built without CUDA"), (sys.executable, "has no torch")])
def test_without_a_gpu_there_are_no_figures(tmp_path: Path, python: Path | str, says: str) -> None:
    done = run(python, "-m", "bench.gpu", "--out", str(tmp_path / "gpu.json"))
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_measuring_works_and_host_memory_is_called_no_result(tmp_path: Path) -> None:
    before = RESULTS.stat().st_mtime_ns if RESULTS.exists() else None
    out = tmp_path / "gpu.json"
    done = run(ENGINE_PYTHON, "-m", "bench.gpu", "--check-harness", "--rounds", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "CHECK OF THE HARNESS ON HOST MEMORY: these are no results, and are written nowhere"
    measured = [line for line in lines if line.startswith("  ")]
    assert len(measured) == 12
    assert not any("not measured" in line for line in measured)
    assert not any("met" in line or "MISSED" in line for line in lines), "host memory keeps no promise about a GPU"
    assert not out.exists()
    assert before == (RESULTS.stat().st_mtime_ns if RESULTS.exists() else None)
    assert list(Path("/dev/shm").glob("hydrant-bench-gpu-*")) == []


def test_wrong_bytes_on_the_device_fail_the_run() -> None:
    done = run(ENGINE_PYTHON, "-c", CORRUPT)
    assert done.returncode == 1
    assert (
        "FAILED: loads: WrongBytes: model.embed_tokens.weight is not on the device as it is in the file" in done.stderr
    )
    assert "through the pinned ring" in done.stdout, "what did not fail is told"
