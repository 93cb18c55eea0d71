"""How fast a stage's bytes get from shared memory to the device, in each way that there is."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from bench.gpu.device import CannotMeasure, Ops
from bench.gpu.rows import Row
from engine.weights.pinned_ring import copies_through

PIECE = 64 << 20
"""Bytes of a copy: a weight matrix of a model of 7B."""

PAGEABLE, RING, BOUND = "as mapped (unpinned)", "through the pinned ring", "from pinned memory: the link's bound"
REGISTERED, REGISTERED_COPY = "registered whole, all told", "registered whole, the copy alone"


class Copies:
    """Copies of one file in shared memory. Each measurement maps it anew, as every stage does, page faults included."""

    def __init__(self, ops: Ops, path: Path) -> None:
        self._ops, self._path, self._nbytes = ops, path, path.stat().st_size
        self._target = ops.empty((min(PIECE, self._nbytes),), torch.uint8)
        self.rows = {name: Row(name, "GB/s") for name in (PAGEABLE, RING, REGISTERED, REGISTERED_COPY, BOUND)}
        self.refused: str | None = None

    def round(self) -> None:
        """Measure each way once."""
        for name, copy in ((PAGEABLE, self._pageable), (RING, self._ring)):
            begun = time.monotonic()
            copy()
            self._add(name, time.monotonic() - begun)
        self._add(BOUND, self._bound())
        if self.refused is None:
            try:
                self._registered()
            except CannotMeasure as error:
                self.refused = str(error)

    def _map(self, shared: bool) -> torch.Tensor:
        return torch.from_file(str(self._path), shared=shared, size=self._nbytes, dtype=torch.uint8)

    def _copy(self, source: torch.Tensor, non_blocking: bool = False) -> None:
        for part in source.split(PIECE):
            self._target[: part.numel()].copy_(part, non_blocking)
        self._ops.synchronize()

    def _pageable(self) -> None:
        self._copy(self._map(shared=False))

    def _ring(self) -> None:
        with copies_through(self._ops.ring):
            self._copy(self._map(shared=False))

    def _bound(self) -> float:
        """Seconds."""
        pinned = self._ops.pinned(self._target.numel())
        self._ops.synchronize()
        begun = time.monotonic()
        done = 0
        while done < self._nbytes:
            part = pinned[: self._nbytes - done]
            self._target[: part.numel()].copy_(part, non_blocking=True)
            done += part.numel()
        self._ops.synchronize()
        return time.monotonic() - begun

    def _registered(self) -> None:
        begun = time.monotonic()
        # Shared, because a private mapping would be copied page by page when it is pinned; nothing writes to it.
        source = self._map(shared=True)
        self._ops.register(source)
        try:
            copying = time.monotonic()
            self._copy(source, non_blocking=True)
            copied = time.monotonic()
        finally:
            self._ops.unregister(source)
        self._add(REGISTERED_COPY, copied - copying)
        self._add(REGISTERED, time.monotonic() - begun)

    def _add(self, name: str, seconds: float) -> None:
        self.rows[name].samples.append(self._nbytes / 1e9 / seconds)
