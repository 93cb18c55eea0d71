"""Whether what a warm runtime has imported is still what is installed: a fork of an old one would run old code."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = ("sglang", "torch", "transformers", "tokenizers")
"""What an engine is made of. Each is looked at by its RECORD, which every installation writes anew."""

ENGINE = Path(__file__).resolve().parents[1]

Stamp = tuple[int, int] | None


class Installed:
    """Files as they were when this was made."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._stamps = {path: _stamp(path) for path in paths}

    def changed(self) -> Path | None:
        """A file that is another one now, or gone; None when all are as they were. Takes a millisecond at most."""
        return next((path for path, stamp in self._stamps.items() if _stamp(path) != stamp), None)


def engine_files() -> Iterator[Path]:
    """What a fork's behaviour hangs on: the packages, this package's own code (the plugin in it), the node's config."""
    yield from sorted(ENGINE.rglob("*.py"))
    for name in PACKAGES:
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield Path(str(found.locate_file(f"{name}-{found.version}.dist-info/RECORD")))
    config = os.environ.get("HYDRANT_NODE_CONFIG")
    if config:
        yield Path(config)


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
