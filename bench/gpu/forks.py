"""From a fork, or from nothing, to the first kernel: `python -m bench.gpu.forks forked|fresh DEVICE SINCE`.

"forked" imports what the warm runtime imports (SGLang, where it is installed; else torch, and transformers if it is
there), with the warm runtime's environment, sees to it that CUDA is untouched, and forks a child that uses the device.
"fresh" is a process that imports torch and uses it. SINCE is the clock (CLOCK_MONOTONIC, s) when it was asked for.

Prints a JSON line: {"context_s": making the CUDA context, "first_kernel_s": since the fork or SINCE, "imported": [...]}
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bench.gpu.rows import Row

ROOT = Path(__file__).resolve().parents[2]
FORKED, FRESH = "forked", "fresh"
TIMEOUT_S = 120


class ForkFailed(Exception):
    """A child could not use the device; the message has its output."""


class Forks:
    """Both ways, measured in turn."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.imported: dict[str, list[str]] = {}
        self.rows = {
            (way, field): Row(f"{label}, {what}", "s")
            for way, label in ((FORKED, "fork"), (FRESH, "fresh process"))
            for field, what in (("first_kernel_s", "until the first kernel"), ("context_s", "the CUDA context of it"))
        }

    def round(self) -> None:
        """Measure each once. Raises ForkFailed."""
        for way in (FORKED, FRESH):
            found = self._run(way)
            self.imported[way] = found["imported"]
            for field in ("first_kernel_s", "context_s"):
                self.rows[way, field].samples.append(found[field])

    def _run(self, way: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "bench.gpu.forks", way, self._device, str(time.monotonic())]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        ) as process:
            try:
                output, errors = process.communicate(timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                # Its child too, which would hold the pipes open.
                os.killpg(process.pid, signal.SIGKILL)
                raise ForkFailed(f"{way}: nothing after {TIMEOUT_S} s") from None
        if process.returncode:
            raise ForkFailed(f"{way}: {(errors or output)[-2000:]}")
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found


def use(device: str, since: float) -> dict[str, Any]:
    """Make the context and run a kernel. Raises RuntimeError when it computes nonsense."""
    import torch

    begun = time.monotonic()
    one = torch.ones(1024, device=device)
    synchronize(device)
    made = time.monotonic()
    total = float((one + one).sum())
    if total != 2048:
        raise RuntimeError(f"{device} adds 1024 times 1 and 1 up to {total}")
    return {"context_s": made - begun, "first_kernel_s": time.monotonic() - since}


def synchronize(device: str) -> None:
    """Return when the device has nothing left to do."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def import_as_warm(device: str) -> list[str]:
    """Import as the warm runtime does; what that was. Raises NotForkable when CUDA was touched."""
    from engine.runtime import gpu_facts, imports
    from engine.runtime.environment import node_environment

    os.environ.update(node_environment("cuda" if device.startswith("cuda") else "cpu"))
    if importlib.util.find_spec("sglang") is not None and device.startswith("cuda"):
        imports.import_engine()
        return ["sglang"]
    names = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is not None]
    for name in names:
        importlib.import_module(name)
    gpu_facts.install()
    imports.check_forkable()
    return names


def forked(device: str) -> dict[str, Any]:
    """Fork a child that uses the device, and return what it tells. Raises ForkFailed."""
    imported = import_as_warm(device)
    ours, theirs = os.pipe()
    since = time.monotonic()
    if os.fork() == 0:
        try:
            os.write(theirs, json.dumps(use(device, since)).encode())
        except BaseException:  # noqa: BLE001 - whatever it was, it is told, and the child ends here
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(0)
    os.close(theirs)
    told = os.read(ours, 4096)
    os.wait()
    if not told:
        raise ForkFailed("the child could not use the device")
    found: dict[str, Any] = json.loads(told)
    return found | {"imported": imported}


def main() -> None:
    """Command line entry."""
    way, device, since = sys.argv[1], sys.argv[2], float(sys.argv[3])
    print(json.dumps(forked(device) if way == FORKED else use(device, since) | {"imported": ["torch"]}))


if __name__ == "__main__":
    main()
