"""A small HTTP/1.1 client for workers: POST, on connections that are kept, over asyncio and httptools.

A general client costs more of a request's time than all else that the gateway does for it. This one knows one method,
never follows a redirect, never unpacks a body, and keeps nothing of an answer but its head and what was not read yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from gateway.workers.worker_connection import Address, ClosedBefore, Lost, WorkerConnection


class Unreached(Exception):
    """No connection: the worker has not heard of the request."""


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a URL leads. `host` as in the request's head."""

    address: Address
    host: str
    path: str


class Answer:
    """An answer's head; its body is read part by part."""

    __slots__ = ("_connection", "headers", "read", "status")

    def __init__(self, connection: WorkerConnection) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers = connection.headers
        """By name in lower case; of repeated ones the last."""
        self.read = connection.read
        """What has come of the body, at least a byte; empty at its end. Raises Lost."""

    def close(self) -> None:
        """Ends the exchange. Where the answer was not read to its end, the connection goes: the worker learns of it."""
        self._connection.release()


class WorkerClient:
    """The connections to all workers. `stall_timeout_s` bounds a worker's silence, at any point of an exchange, and
    the time until an answer's head is whole."""

    def __init__(self, connect_timeout_s: float, stall_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._idle: dict[Address, list[WorkerConnection]] = {}

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Sends a request and waits for the head of its answer, which is the caller's to close.

        Raises Unreached, and Lost.
        """
        try:
            target = _split(url)
            head = _head(target, headers, len(body))
        except ValueError as error:
            raise Unreached(str(error)) from error
        kept = self._take(target.address)
        if kept is None:
            return await self._exchange(await self._connect(target.address), head, body)
        try:
            return await self._exchange(kept, head, body)
        except ClosedBefore:
            # The worker ended an idle connection just as it was used: no failure of the worker.
            try:
                fresh = await self._connect(target.address)
            except Unreached as error:
                raise Lost("it closed the connection and takes no other") from error
            return await self._exchange(fresh, head, body)

    def close(self) -> None:
        """Closes the idle connections."""
        for connections in [*self._idle.values()]:
            for connection in [*connections]:
                connection.abort()

    def _take(self, address: Address) -> WorkerConnection | None:
        """The connection that was used last: those that are not needed stay idle, and end."""
        while connections := self._idle.get(address):
            connection = connections.pop()
            if not connections:
                del self._idle[address]
            if connection.is_fresh():
                return connection
            connection.abort()
        return None

    async def _connect(self, address: Address) -> WorkerConnection:
        host, port, tls = address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = WorkerConnection(loop, self._idle, address, self._stall_timeout_s)
                await loop.create_connection(lambda: connection, host, port, ssl=tls or None)
        except (OSError, TimeoutError) as error:
            raise Unreached(type(error).__name__) from error
        return connection

    async def _exchange(self, connection: WorkerConnection, head: bytes, body: bytes) -> Answer:
        try:
            connection.send(head, body)
            await connection.until_head()
        except BaseException:
            connection.abort()
            raise
        return Answer(connection)


@lru_cache(1024)
def _split(url: str) -> _Target:
    """Raises ValueError for what is no HTTP URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an HTTP URL: {url}")
    tls = parts.scheme == "https"
    path = parts.path or "/"
    return _Target(
        (parts.hostname, parts.port or (443 if tls else 80), tls),
        parts.netloc.rpartition("@")[2],
        f"{path}?{parts.query}" if parts.query else path,
    )


def _head(target: _Target, headers: Mapping[str, str], length: int) -> bytes:
    """The request's head. Raises ValueError where a value would begin a line of its own."""
    return b"%bcontent-length: %d\r\n\r\n" % (_lines(target, tuple(headers.items())), length)


@lru_cache(1024)
def _lines(target: _Target, headers: tuple[tuple[str, str], ...]) -> bytes:
    lines = [f"POST {target.path} HTTP/1.1", f"host: {target.host}", *(f"{name}: {value}" for name, value in headers)]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("a header of the request holds a line break")
    return head.encode() + b"\r\n"
