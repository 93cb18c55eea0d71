"""What a cold start costs the machine: CPU seconds and memory, sampled from /proc while it runs."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Cost:
    """Of the whole machine, which does nothing else meanwhile. `cpu_s`: seconds of all cores; `peak_bytes`: the most
    memory in use at a time, above what was in use at the start (page cache is not counted)."""

    cpu_s: float
    peak_bytes: int


class Sampler:
    """Samples from `with` on; `cost` is what was seen until then, also after the end."""

    def __init__(self) -> None:
        self._begin_cpu = busy_seconds()
        self._begin_used = self._peak = used_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def cost(self) -> Cost:
        """Since the start."""
        return Cost(busy_seconds() - self._begin_cpu, max(0, self._peak - self._begin_used))

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            self._peak = max(self._peak, used_bytes())


def busy_seconds() -> float:
    """CPU seconds that all cores together have worked since boot (user, nice, system, interrupts)."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split(None, 8)[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def used_bytes() -> int:
    """Memory that is not available to new processes."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total - available
