"""Work that ends when its client leaves: in the caller's own task, which must be none the worse for it."""

from __future__ import annotations

import asyncio

import pytest

from gateway.clients.reply import until_disconnect


def client() -> asyncio.Future[None]:
    """Whether a client has gone: it has not, until somebody says so."""
    return asyncio.get_running_loop().create_future()


async def not_cancelled() -> bool:
    """Whether this task can still wait, and counts no cancellation that would mislead `asyncio.timeout`."""
    async with asyncio.timeout(5):
        await asyncio.sleep(0.01)
    task = asyncio.current_task()
    return task is not None and task.cancelling() == 0


async def test_work_that_ends_first() -> None:
    assert not await until_disconnect(client(), asyncio.sleep(0))
    assert await not_cancelled()


async def test_a_client_that_leaves_ends_the_work() -> None:
    gone, cleaned_up = client(), []

    async def work() -> None:
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned_up.append(True)

    asyncio.get_running_loop().call_later(0.01, gone.set_result, None)
    assert await until_disconnect(gone, work())
    assert cleaned_up
    assert await not_cancelled()


async def test_what_the_work_raises_passes_through() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise KeyError("it")

    with pytest.raises(KeyError):
        await until_disconnect(client(), work())
    assert await not_cancelled()


async def test_a_client_that_leaves_just_as_the_work_ends_cancels_nothing_after_it() -> None:
    gone = client()

    async def work() -> None:
        gone.set_result(None)

    assert not await until_disconnect(gone, work())
    assert await not_cancelled()


async def test_a_cancelled_caller_is_cancelled_also_when_the_client_leaves() -> None:
    gone = client()
    calling = asyncio.ensure_future(until_disconnect(gone, asyncio.sleep(60)))
    await asyncio.sleep(0.01)
    gone.set_result(None)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
