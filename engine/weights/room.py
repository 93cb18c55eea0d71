"""Room in the shared memory, within its limit and in a file system that is full: what is unused goes."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from engine.weights.files import FileCache
from engine.weights.inventory import Inventory, StoreError
from engine.weights.segment import Segment
from engine.weights.spec import TensorSpec


class Room:
    """Makes room in the store at `root`, which may take `limit_bytes`: unused segments go first, then unused files."""

    def __init__(self, inventory: Inventory, files: FileCache, limit_bytes: int, root: Path) -> None:
        self._inventory = inventory
        self._files = files
        self._limit = limit_bytes
        self._root = root

    def new_segment(self, tensors: Sequence[TensorSpec]) -> Segment:
        """A new segment within the limit. Raises StoreError or OSError."""
        try:
            return self._inventory.new_segment(tensors, self._limit - self._files.bytes_held())
        except StoreError:
            if not self._files.evict_unused():
                raise
            return self._inventory.new_segment(tensors, self._limit - self._files.bytes_held())

    async def having(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, again for as long as it meets a full file system and something unused can be given back.

        Raises StoreError when nothing is left to give back, and what `work` raises otherwise.
        """
        while True:
            given_back = self._inventory.given_back
            try:
                return await work()
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                if await self._inventory.more_given_back(than=given_back):
                    continue
                if not (self._inventory.evict_oldest() or self._files.evict_unused()):
                    raise StoreError(
                        "shared memory is full, even without what no stage uses. Enlarge the file system of "
                        f"{self._root}, lower store_gb, or stop a model on this node."
                    ) from error
