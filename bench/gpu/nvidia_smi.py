"""What nvidia-smi tells of a GPU that torch does not."""

from __future__ import annotations

import shutil
import subprocess

FIELDS = ("driver_version", "pcie.link.gen.max", "pcie.link.gen.current", "pcie.link.width.current", "uuid")


def nvidia_smi(uuid: str) -> dict[str, str | None]:
    """Driver and PCIe link of the GPU with this UUID (of the only one, if there is one); None what cannot be told."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return told("", uuid)
    command = [program, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return told(done.stdout if done.returncode == 0 else "", uuid)


def told(answer: str, uuid: str) -> dict[str, str | None]:
    """`nvidia_smi`, of the program's answer: a line for each GPU, with its UUID at the end."""
    lines = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]
    ours = [cells for cells in lines if uuid and cells[-1].removeprefix("GPU-") == uuid.removeprefix("GPU-")]
    if not ours and len(lines) == 1:
        ours = lines
    known = dict(zip(FIELDS, ours[0], strict=False)) if ours else {}
    return {name: known.get(name) for name in FIELDS[:-1]}
