"""Reading byte ranges from where a model lives: local directory, HTTP(S), S3, GCS, Azure; all through obstore.

obstore's own retries are off: a read that breaks is resumed here, at the byte where it broke, which obstore cannot.
Credentials come from the node's environment (AWS_*, GOOGLE_*, AZURE_*), never from the effect.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import from_url

CHUNK_S = 0.1
TRUSTED_READS = 8
_CHUNK_MOST = 1024 * 1024
_ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}


class SourceError(Exception):
    """The source cannot give these bytes; the message names the file and says what to do."""


class _Broken(Exception):
    """The read broke off; what is missing may be asked for again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a read that brings no byte is tried, and the pauses between (seconds: doubling, bounded).

    One that has brought none for `silence_s` is given up whatever the tries: two starts must fail, and say why, within
    the 120 s for which a request is held.
    """

    tries: int = 8
    first_pause_s: float = 0.1
    longest_pause_s: float = 3.0
    idle_timeout_s: float = 15.0
    silence_s: float = 40.0

    def pause_s(self, failures: int) -> float:
        """Pause after this many failures in a row (1 or more)."""
        return float(min(self.longest_pause_s, self.first_pause_s * 2 ** (failures - 1)))


class _Chunk:
    """How many bytes of a read to take from obstore at a time.

    It keeps a chunk back until it is whole: a large one makes a crawling source look silent and is lost when the
    connection breaks, a small one costs CPU (1.43 GB at 50 MB/s: 32 s of it taken as it comes, 9 s in chunks of 1 MiB).
    So everything is taken as it comes until TRUSTED_READS have come in whole, then at most what comes in CHUNK_S.
    """

    def __init__(self) -> None:
        self.nbytes = 1
        self._whole = 0

    def came_whole(self, size: int, seconds: float) -> None:
        """A read of `size` bytes has come in whole."""
        self._whole += 1
        if self._whole >= TRUSTED_READS:
            self.nbytes = max(1, min(_CHUNK_MOST, int(size / max(seconds, 1e-6) * CHUNK_S)))

    def broke(self) -> None:
        """A read broke off, or fell silent, perhaps only because no chunk of it became whole."""
        self.nbytes, self._whole = 1, 0


class Source:
    """A directory (or prefix) of files at a URL. `came` is called whenever bytes have come."""

    def __init__(self, url: str, retry: RetryPolicy, came: Callable[[], object] = lambda: None) -> None:
        self.url = url
        self._retry = retry
        self._local = url.startswith("file:")
        self._store: Any = None
        self._chunk = _Chunk()
        self._came = came

    def _open(self) -> None:
        """Make the store at the first read: what is held needs no source. Raises SourceError."""
        if self._store is not None:
            return
        url = self.url
        if self._local and not os.path.isdir(unquote(urlsplit(url).path)):
            raise SourceError(f"{url} does not exist on this node. Mount or copy the model there, or register anew.")
        options: dict[str, Any] = {}
        if not self._local:
            client: dict[str, Any] = {"connect_timeout": "5s", "timeout": "15m"}
            scheme = urlsplit(url).scheme
            # Client options given here hide those that obstore reads from the environment.
            if scheme == "http" or os.environ.get(_ALLOW_HTTP.get(scheme, ""), "").lower() in ("1", "true"):
                client["allow_http"] = True
            options = {"client_options": client, "retry_config": {"max_retries": 0}}
        try:
            self._store = from_url(url, **options)
        except (BaseError, OSError, ValueError) as error:
            raise SourceError(f"cannot open the source {url}: {_first_line(error)}") from error

    async def read(self, file: str, begin: int, end: int) -> AsyncGenerator[memoryview, None]:
        """Yield exactly the bytes `[begin, end)` of a file, in order, in pieces; broken reads are resumed.

        Raises SourceError when the file is missing, forbidden or too short, or when reads keep failing.
        """
        self._open()
        at, failures = begin, 0
        give_up_at = time.monotonic() + self._retry.silence_s
        while at < end:
            before = at
            try:
                async with aclosing(self._read_once(file, at, end)) as pieces:
                    async for piece in pieces:
                        at += piece.nbytes
                        self._came()
                        yield piece
                        give_up_at = time.monotonic() + self._retry.silence_s
                if at < end:
                    raise _Broken(f"the body ended after {at - before} of {end - before} bytes")
            except _Broken as error:
                self._chunk.broke()
                failures = 1 if at > before else failures + 1
                await self._check_size(file, end)
                if failures >= self._retry.tries or time.monotonic() > give_up_at:
                    raise SourceError(
                        f"{self.url}/{file} failed {failures} times in a row: {error}. Check the source, then start "
                        "again."
                    ) from error
                await asyncio.sleep(self._retry.pause_s(failures))

    async def _read_once(self, file: str, begin: int, end: int) -> AsyncGenerator[memoryview, None]:
        """One request, never more bytes than asked for. Raises SourceError or _Broken."""
        idle = self._retry.idle_timeout_s
        try:
            if self._local:
                # For files one call is six times as fast as a stream (measured), and they do not break half-way.
                async with asyncio.timeout(idle):
                    data = await obstore.get_range_async(self._store, file, start=begin, end=end)
                yield memoryview(data)
                return
            async with asyncio.timeout(idle):
                answer = await obstore.get_async(self._store, file, options={"range": (begin, end)})
            if answer.range[0] != begin:
                raise SourceError(f"{self.url}/{file}: asked for byte {begin}, the server answered {answer.range[0]}.")
            pieces, left = aiter(answer.stream(min_chunk_size=self._chunk.nbytes)), end - begin
            begun = time.monotonic()
            while left:
                async with asyncio.timeout(idle):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                view = memoryview(piece)[:left]
                left -= view.nbytes
                yield view
            self._chunk.came_whole(end - begin, time.monotonic() - begun)
        except TimeoutError:
            raise _Broken(f"no byte came for {idle:.0f} s") from None
        except (BaseError, OSError) as error:
            raise self._classified(file, error) from error

    async def _check_size(self, file: str, at_least: int) -> None:
        """After a broken read: raise SourceError when the file is gone or too short, else return."""
        try:
            async with asyncio.timeout(self._retry.idle_timeout_s):
                size = (await obstore.head_async(self._store, file))["size"]
        except TimeoutError:
            return
        except (BaseError, OSError) as error:
            classified = self._classified(file, error)
            if isinstance(classified, SourceError):
                raise classified from error
            return
        if size < at_least:
            raise SourceError(
                f"{self.url}/{file} has {size} bytes where the manifest needs {at_least}: it is truncated or was "
                "replaced. Restore the file, or register the model again."
            )

    def _classified(self, file: str, error: Exception) -> SourceError | _Broken:
        where = f"{self.url}/{file}"
        if isinstance(error, NotFoundError | FileNotFoundError):
            return SourceError(f"{where} does not exist. Restore the file, or register the model again.")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
            return SourceError(f"{where}: access denied. Give this node's environment credentials that may read it.")
        if isinstance(error, NotSupportedError):
            return SourceError(f"{where}: the server does not serve byte ranges; use one that does.")
        if isinstance(error, InvalidPathError | UnknownConfigurationKeyError):
            return SourceError(f"{where}: {_first_line(error)}")
        return _Broken(_first_line(error))


def _first_line(error: Exception) -> str:
    """obstore adds a debug dump after the first line, and a signed URL's query may hold a token: cut both."""
    return re.sub(r"\?\S+", "?...", str(error).split("\n", 1)[0])[:300]
