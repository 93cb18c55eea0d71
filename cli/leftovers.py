"""What a stopped Hydrant has left on this machine: nothing, if all is well."""

from pathlib import Path

import psutil


def leftovers(home: Path) -> list[str]:
    """Processes, sockets and shared-memory files that belong to the Hydrant of `home`, a line each."""
    mark = f"HYDRANT_HOME={home}"
    found = []
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if environ.get("HYDRANT_HOME") == str(home) and process.pid != psutil.Process().pid:
                found.append(f"process {process.pid}: {' '.join(process.cmdline())[:100]} ({mark})")
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            # Ended while we looked, or another user's: not ours.
            continue
    found += [f"socket {path}" for path in home.rglob("*") if path.is_socket()]
    found += [
        f"shared memory {path}"
        for path in Path("/dev/shm").iterdir()
        if "hydrant" in path.name or "sglang" in path.name
    ]
    return found
