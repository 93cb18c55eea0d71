"""The files of one stage: where they are, how they are bounded, and how they go."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import structlog

from engine.node_config import NodeConfig

log = structlog.get_logger(__name__)

LOG_MOST, LOG_KEPT = 64 * 1024 * 1024, 1024 * 1024
"""Bytes at which a running stage's log is cut, and what is kept of it."""


def temp_dir_of(config: NodeConfig, stage_id: str) -> Path:
    """The stage's TMPDIR. Short, whatever the stage id: SGLang makes unix sockets in it."""
    return config.temp_dir / hashlib.sha256(stage_id.encode()).hexdigest()[:10]


def keep_log(log_file: Path, kept: Path) -> None:
    """Move the log of a stage that ended to where logs are kept, if there is one. Raises OSError."""
    if not log_file.exists():
        return
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_file.replace(kept)


def remove_tree(directory: Path) -> None:
    """Remove a directory if it is there. Raises OSError when something of it stays."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        raise OSError(f"{directory} could not be removed")


def bound_log(path: Path) -> None:
    """Cut a log that has grown beyond LOG_MOST to its end. Its writers append, so they go on behind that."""
    with contextlib.suppress(OSError):
        if path.stat().st_size <= LOG_MOST:
            return
        with path.open("rb") as file:
            file.seek(-LOG_KEPT, os.SEEK_END)
            end = file.read()
        os.truncate(path, 0)
        with path.open("ab") as file:
            file.write(b"[noded removed older lines]\n" + end)


@contextlib.contextmanager
def logged(stage_id: str) -> Iterator[None]:
    """A step of a clean-up: that it fails is logged, and the next one follows."""
    try:
        yield
    except OSError as error:
        log.warning("a clean-up failed", stage=stage_id, error=str(error))
