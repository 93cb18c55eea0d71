"""What is left of a stage that has no record: its processes, shared memory and directories."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from pathlib import Path

import structlog

from engine.node_config import NodeConfig
from engine.noded import processes
from engine.noded.stage_files import temp_dir_of
from engine.runtime.stage import LOCK_FILE

log = structlog.get_logger(__name__)

WAIT_S = 5.0
"""How long killed processes may take to disappear. noded waits for them while it starts, serving nobody yet."""


def remove_stage(config: NodeConfig, directory: Path) -> list[int]:
    """Kill the stage's processes and remove its files; the ids of processes that do not die."""
    shared: set[Path] = set()
    deadline = time.monotonic() + WAIT_S
    while pids := processes.of_stage(directory, LOCK_FILE):
        log.warning("killing processes without an owner", directory=str(directory), pids=pids)
        shared |= {path for path in processes.shared_memory(pids) if not path.is_relative_to(config.store_dir)}
        processes.send(pids, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for path in shared:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    for path in (temp_dir_of(config, directory.name), directory):
        shutil.rmtree(path, ignore_errors=True)
    return pids
