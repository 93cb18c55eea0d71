"""What a server under test takes: memory and CPU time, of it and its children."""

from __future__ import annotations

import psutil


def resident_bytes(pid: int) -> int:
    """Resident memory now."""
    return sum(process.memory_info().rss for process in _family(pid))


def cpu_seconds(pid: int) -> float:
    """CPU time since its start."""
    times = [process.cpu_times() for process in _family(pid)]
    return float(sum(time.user + time.system for time in times))


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]
