"""A file system that is really small, and so really gets full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_filesystem(folder: Path, size_bytes: int) -> Iterator[Path]:
    """`folder` as a tmpfs of so many bytes. Skips the test where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", folder]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"this user may not mount a tmpfs: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: an engine that is just ending may still hold a file of it.
        subprocess.run(["umount", "--lazy", folder], check=True)
