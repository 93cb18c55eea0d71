"""Work that ends when its client leaves: in the caller's own task, which must be none the worse for it."""

from __future__ import annotations

import asyncio

import pytest

from gateway.reply import Message, until_disconnect


class Client:
    """What ASGI tells of a client: nothing, until it leaves."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def leave_soon(self) -> None:
        await asyncio.sleep(0.01)
        self.left.set()


async def not_cancelled() -> bool:
    """Whether this task can still wait, and counts no cancellation that would mislead `asyncio.timeout`."""
    async with asyncio.timeout(5):
        await asyncio.sleep(0.01)
    task = asyncio.current_task()
    return task is not None and task.cancelling() == 0


async def test_work_that_ends_first() -> None:
    assert not await until_disconnect(Client().receive, asyncio.sleep(0))
    assert await not_cancelled()


async def test_a_client_that_leaves_ends_the_work() -> None:
    client, cleaned_up = Client(), []

    async def work() -> None:
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned_up.append(True)

    leaving = asyncio.ensure_future(client.leave_soon())
    assert await until_disconnect(client.receive, work())
    assert cleaned_up
    assert await not_cancelled()
    await leaving


async def test_what_the_work_raises_passes_through() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise KeyError("it")

    with pytest.raises(KeyError):
        await until_disconnect(Client().receive, work())
    assert await not_cancelled()


async def test_a_client_that_leaves_just_as_the_work_ends_cancels_nothing_after_it() -> None:
    client = Client()

    async def work() -> None:
        client.left.set()

    assert not await until_disconnect(client.receive, work())
    assert await not_cancelled()


async def test_a_cancelled_caller_is_cancelled_also_when_the_client_leaves() -> None:
    client = Client()
    calling = asyncio.ensure_future(until_disconnect(client.receive, asyncio.sleep(60)))
    await asyncio.sleep(0.01)
    client.left.set()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
