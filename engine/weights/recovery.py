"""What an earlier daemon left in a store's directory, however it ended (also by SIGKILL)."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.weights import load_spec
from engine.weights.segment import EVICTED, Segment, SegmentError


def segments(folder: Path) -> list[Segment]:
    """Take up every usable segment; remove the files of the others (cut off while they were being made)."""
    for leftover in folder.glob(f"*{EVICTED}"):
        leftover.unlink()
    found = []
    for sidecar in sorted(folder.glob("*.landed")):
        try:
            found.append(Segment.recover(sidecar))
        except SegmentError:
            sidecar.unlink()
            sidecar.with_suffix(".safetensors").unlink(missing_ok=True)
    usable = {segment.path for segment in found}
    for path in folder.glob("*.safetensors"):
        if path not in usable:
            path.unlink()
    return found


def stages(folder: Path) -> dict[str, set[Path]]:
    """Every stage with a readable load spec, and the segments it reads; directories without one are removed."""
    found = {}
    for stage in folder.iterdir():
        try:
            found[stage.name] = {Path(entry.segment) for entry in load_spec.read(stage / "load.json")}
        except (OSError, load_spec.LoadSpecError):
            shutil.rmtree(stage, ignore_errors=True)
    return found
