"""Passes a translated stream on, with the usage that was read below litellm before the events it belongs to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from gateway.accounting.attempts import Usage
from gateway.clients.reply import Reply
from gateway.errors import ApiError
from gateway.hosted.tap import Tap
from gateway.workers.stream import USAGE_COMMENT, usage_json


class Heard(Protocol):
    """What was read of an answer so far."""

    failed: bool

    @property
    def finished(self) -> bool:
        """Whether it is whole."""

    @property
    def usage(self) -> Usage:
        """What it has used so far."""


async def relay(
    events: AsyncIterator[bytes], tap: Tap, reader: Heard, reply: Reply, failure: Callable[[], ApiError]
) -> None:
    """Writes the events. Raises `failure()` when the other side broke off, ended early or reported an error."""
    told = None
    held: list[bytes] = []
    async for event in events:
        # litellm makes an ordinary end, or an event of its own, out of whatever went wrong.
        if reader.failed or tap.trouble or (tap.ended and not reader.finished) or event.startswith(b"event: error"):
            raise failure()
        if reader.usage != told:
            told = reader.usage
            held.append(USAGE_COMMENT + usage_json(told) + b"\n\n")
        held.append(event)
        await reply.stream(b"".join(held))
        held.clear()
    await reply.end_stream(b"")
