"""Removes all that a node owns: engine processes, shared memory, sockets, temporary and run directories."""

from __future__ import annotations

import shutil

from engine.node_config import NodeConfig
from engine.noded import leftovers, processes


def sweep(config: NodeConfig) -> list[str]:
    """Remove everything of the node, whose noded and warm runtime must have ended; what could not be, a line each."""
    left: list[str] = []
    recorded = set(config.stages_dir.iterdir()) if config.stages_dir.exists() else set()
    for directory in recorded | processes.stages_below(config.stages_dir):
        left += [f"process {pid} does not die" for pid in leftovers.remove_stage(config, directory)]
    for directory in (config.store_dir, config.temp_dir, config.stages_dir, config.ended_dir):
        shutil.rmtree(directory, ignore_errors=True)
        if directory.exists():
            left.append(f"{directory} could not be removed")
    for socket_path in (config.api_socket, config.warm_socket, config.signal_socket):
        socket_path.unlink(missing_ok=True)
    return left
