"""Two helpers for structured concurrency: blocking work in threads, and the failure behind a task group's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def in_pool(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run `work` in a thread. When cancelled it still waits for it, so that nothing goes away under the thread."""
    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(future)
    finally:
        if not future.done():
            await asyncio.wait([future])


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended a task group; it comes first, and the others are its consequence."""
    cause: BaseException = group
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause
