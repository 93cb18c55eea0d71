"""Waiting, once a process, for what is under way to end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

POLL_SECONDS = 0.02


async def until_none(count: Callable[[], int], seconds: float) -> None:
    """Waits until `count` says 0, `seconds` at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while count():  # noqa: ASYNC110 - once a process: not worth an event for each request and each ending
                await asyncio.sleep(POLL_SECONDS)
