"""What a stopped Hydrant has left on this machine: nothing, if all is well."""

from collections.abc import Iterable
from pathlib import Path

import psutil

from cli.services import DevNode
from engine.node_config import parse_config

SHARED_MEMORY = Path("/dev/shm")


def shared_memory_files() -> set[Path]:
    """Everything in shared memory now; what others keep there is theirs."""
    return set(SHARED_MEMORY.iterdir())


def leftovers(home: Path, nodes: Iterable[DevNode], shared_before: set[Path]) -> list[str]:
    """Processes, sockets, temporary and shared-memory files of the Hydrant of `home` and its nodes, a line each."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HYDRANT_HOME") == str(home) and process.pid != psutil.Process().pid:
                found.append(f"process {process.pid}: {' '.join(process.cmdline())[:100]}")
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            # Ended while we looked, or another user's: not ours.
            continue
    found += [f"socket {path}" for path in home.rglob("*") if path.is_socket()]
    for node in nodes:
        config = parse_config({"node": {"name": node.name}}, {"HYDRANT_HOME": str(home)})
        found += [f"directory {path}" for path in (config.store_dir, config.temp_dir) if path.exists()]
    appeared = shared_memory_files() - shared_before
    return found + [f"shared memory {path}" for path in sorted(appeared) if path.name.startswith(("sglang", "torch_"))]
