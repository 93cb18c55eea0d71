"""A worker that answers with whatever bytes a test wants, in whatever rhythm. Not part of the product."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawWorker:
    """One TCP server on a free port. It reads each request whole, counts it, and leaves the answer to `script`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests = 0
        self.sent_bytes = 0
        self.url = ""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> RawWorker:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def pour(self, writer: asyncio.StreamWriter, piece: bytes, times: int) -> None:
        """Sends a piece again and again, as fast as the other side takes it."""
        for _ in range(times):
            writer.write(piece)
            await writer.drain()
            self.sent_bytes += len(piece)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = [
                    int(line.split(b":")[1])
                    for line in head.lower().splitlines()
                    if line.startswith(b"content-length:")
                ]
                await reader.readexactly(length)
                self.requests += 1
                await self.script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the gateway has left
        finally:
            self._connections.discard(task)
            writer.close()
