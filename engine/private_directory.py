"""Directories in places that every user may write to."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make_private(path: Path) -> None:
    """Make `path` a directory that only this user can enter. Raises PermissionError when another's is there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{path} is a symbolic link or belongs to another user; remove it")
    path.chmod(0o700)
