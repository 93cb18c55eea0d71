"""One lab a machine: who has it, and removing what an owner has left that could not do so itself.

Everything of a lab has a fixed name: namespaces `hydlab-*`, directories below `/run/hydlab`. So nothing has to be
recorded for it to be found again, and the end of a lab and the sweep after one that was killed are the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from pathlib import Path

from bench.lab import tools
from engine.node_config import parse_config
from engine.noded import processes, sweep
from engine.private_directory import make_private

PREFIX = "hydlab-"
RUN_DIR = Path("/run/hydlab")
"""Holds the lock, and a directory a host with its logs and, for a node, its HYDRANT_HOME."""
NAMESPACES = Path("/run/netns")
LOCK = "lock"
DIE_WITHIN_S = 10.0


def take(run_dir: Path = RUN_DIR) -> int:
    """Be the lab's only owner until the descriptor that is returned is closed, or this process ends. Raises LabBusy."""
    make_private(run_dir)
    descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        content = os.pread(descriptor, 32, 0)
        os.close(descriptor)
        raise tools.LabBusy(int(content) if content else None) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def release(descriptor: int) -> None:
    """Give the lab up. The lock file stays: one that is removed could be locked by two."""
    os.ftruncate(descriptor, 0)
    os.close(descriptor)


def remove_all(run_dir: Path = RUN_DIR) -> None:
    """Remove every process, namespace, directory and shared memory of a lab; its owner must be this process or dead.

    Raises LabError when a process does not die or a node's files cannot be removed.
    """
    namespaces = sorted(path for path in NAMESPACES.glob(f"{PREFIX}*"))
    shared = _end_processes(namespaces)
    for path in namespaces:
        tools.run("ip", ["netns", "delete", path.name])
    for path in shared:
        path.unlink(missing_ok=True)
    for home in run_dir.iterdir():
        if home.is_dir():
            left = sweep.sweep(parse_config({"node": {"name": home.name}}, {"HYDRANT_HOME": str(home)}))
            if left:
                raise tools.LabError(f"cannot remove all of {home.name}: {left[0]}")
            shutil.rmtree(home)


def members(namespaces: list[Path]) -> list[int]:
    """Ids of the living processes in these network namespaces. One that has gone, or is no namespace yet, has none."""
    wanted = set()
    for path in namespaces:
        with contextlib.suppress(FileNotFoundError):
            wanted.add(_identity(path))
    found = []
    for name in os.listdir("/proc"):
        # A process that ends while we look, and a zombie, has no namespace any more.
        with contextlib.suppress(OSError):
            if name.isdigit() and _identity(Path("/proc", name, "ns/net")) in wanted:
                found.append(int(name))
    return found


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _end_processes(namespaces: list[Path]) -> set[Path]:
    """Kill all in the namespaces; the files in shared memory that they had mapped."""
    shared: set[Path] = set()
    deadline = time.monotonic() + DIE_WITHIN_S
    while pids := members(namespaces):
        if time.monotonic() > deadline:
            raise tools.LabError(f"process {pids[0]} in the lab's network does not die")
        shared |= processes.shared_memory(pids)
        processes.send(pids, signal.SIGKILL)
        time.sleep(0.01)
    return shared
