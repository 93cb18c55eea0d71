"""The load spec: one JSON file a stage that tells the engine's process where each of its tensors is or will be.

noded writes it (atomically) before it answers a prefetch, and again when tensors move to another segment because their
fetch ended early. The engine reads it; both sides use this file, so it imports the standard library only.

    {"v": 1, "stage_id": "...", "tensors": [{"name", "dtype", "shape", "segment": path, "progress": its sidecar's path,
                                             "index": in the sidecar, "offset": in the segment file, "nbytes"}, ...]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


class LoadSpecError(Exception):
    """The file is not a load spec of this version."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor under the engine's name, in load order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    segment: str
    progress: str
    index: int
    offset: int
    nbytes: int


def write(path: Path, stage_id: str, entries: Sequence[Entry]) -> None:
    """Replace the load spec as a whole. Raises OSError."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"v": 1, "stage_id": stage_id, "tensors": [asdict(entry) for entry in entries]}))
    os.replace(temporary, path)


def read(path: Path) -> list[Entry]:
    """Read it back. Raises OSError or LoadSpecError."""
    try:
        obj = json.loads(path.read_text())
        if obj["v"] != 1:
            raise LoadSpecError(f"{path}: written by another version; restart this node's daemon and the stage")
        return [Entry(**(item | {"shape": tuple(item["shape"])})) for item in obj["tensors"]]
    except (ValueError, KeyError, TypeError) as error:
        raise LoadSpecError(f"{path}: damaged load spec: {error}") from error
