"""Room in a shared memory that is full: what is unused goes, then what did not fit is tried again."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine.weights.inventory import Inventory, StoreError

T = TypeVar("T")


async def with_room(
    work: Callable[[], Awaitable[T]], inventory: Inventory, evict_files: Callable[[], bool], full: str
) -> T:
    """Do `work`, again for as long as it meets a full file system and something unused can be given back.

    `evict_files` drops unused small files and says whether there were any; `full` is the message of the StoreError that
    is raised when nothing is left to give back.
    """
    while True:
        given_back = inventory.given_back
        try:
            return await work()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            if await inventory.more_given_back(than=given_back):
                continue
            if not (inventory.evict_oldest() or evict_files()):
                raise StoreError(full) from error
