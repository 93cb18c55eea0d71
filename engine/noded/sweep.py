"""Removes all that a node owns: engine processes, shared memory, sockets, temporary and run directories."""

from __future__ import annotations

import shutil
import signal
import time

from engine.node_config import NodeConfig
from engine.noded import processes

WAIT_S = 10.0


def sweep(config: NodeConfig) -> list[str]:
    """Remove everything of the node, whose noded and warm runtime must have ended; what could not be, a line each."""
    left: list[str] = []
    shared = set()
    deadline = time.monotonic() + WAIT_S
    while pids := processes.in_directory(config.stages_dir):
        shared |= {path for path in processes.shared_memory(pids) if not path.is_relative_to(config.store_dir)}
        processes.send(pids, signal.SIGKILL)
        if time.monotonic() > deadline:
            left += [f"process {pid} does not die" for pid in pids]
            break
        time.sleep(0.02)
    for path in shared:
        path.unlink(missing_ok=True)
    for directory in (config.store_dir, config.temp_dir, config.stages_dir):
        shutil.rmtree(directory, ignore_errors=True)
        if directory.exists():
            left.append(f"{directory} could not be removed")
    for socket_path in (config.api_socket, config.warm_socket, config.signal_socket):
        socket_path.unlink(missing_ok=True)
    return left
