"""An answer that several clients follow, while the work behind it is being ended."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gateway.clients.reply import Client, ClientGone, Reply
from gateway.idempotency import _Answer


class Left:
    """A client that has gone, and its reply, of which nothing was sent."""

    ended = False

    def __init__(self) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone.set_result(None)


async def test_a_client_that_comes_and_goes_while_the_work_is_being_ended_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.idempotency.LINGER_SECONDS", 0.0)
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    answer = _Answer("", 1000)
    for _ in range(2):
        with pytest.raises(ClientGone):
            await answer.follow(cast(Client, Left()), cast(Reply, Left()))
        await asyncio.wait_for(asyncio.shield(answer.gone), 5)
        await asyncio.sleep(0.01)  # for the timer of the second, if there is one
    assert failures == []
