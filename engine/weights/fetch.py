"""Bringing tensors from a source into their segments: paced, several reads at once, verified as they land.

A read is paid for, then streamed into place, decoded on the way where it is compressed. Each tensor is hashed as its
contiguous beginning grows, so that little hashing is left when its last byte comes; it is published only when the
digest matches. Decoding, hashing and writing run in threads (all release the GIL).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

from engine.weights.compressed import CodecError
from engine.weights.growing import Growing, Mapped, Target
from engine.weights.pacing import piece_bytes, reads_at_once
from engine.weights.ranges import Range, Wanted, coalesce, overlap
from engine.weights.segment import Segment
from engine.weights.source import Source, SourceError
from engine.weights.threads import first_cause, in_pool

_HASH_STEP = 4 * 1024 * 1024
_INLINE_BYTES = 64 * 1024


class FetchError(Exception):
    """The bytes cannot be had or are not the ones that were registered; the message says which and what to do."""


class Fetch:
    """One run over the missing tensors of a stage. Callbacks run on the event loop's thread.

    `pay` returns when so many bytes may be asked for; `rates` are the bytes/s that they are paid for at. `with_room`
    does a piece of work that may meet a full shared memory, and does it again when there is room. In the `background`
    it has little under way at a time, so that it does not delay what else crosses the link.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        source: Source,
        pay: Callable[[int], Awaitable[None]],
        rates: Callable[[], Sequence[int | None]],
        pool: ThreadPoolExecutor,
        with_room: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
        on_bytes: Callable[[int], None],
        on_landed: Callable[[Segment, int], None],
        background: bool = False,
    ) -> None:
        self._targets = targets
        self._source = source
        self._pay = pay
        self._rates = rates
        self._pool = pool
        self._with_room = with_room
        self._on_bytes = on_bytes
        self._on_landed = on_landed
        self._background = background
        self._files: dict[Path, Mapped] = {}
        self._growing: list[Growing] = []

    async def run(self) -> None:
        """Fetch everything, or raise FetchError. When it returns or raises, nothing of it touches the segments."""
        try:
            for target in self._targets:
                if target.segment.path not in self._files:
                    self._files[target.segment.path] = Mapped(target.segment.path)
            self._growing = [Growing(target, self._files[target.segment.path]) for target in self._targets]
            for growing in self._growing:
                await self._verify(growing)
            await self._read_all()
        except ExceptionGroup as group:
            raise first_cause(group) from group
        finally:
            for mapped in self._files.values():
                mapped.close()

    async def _read_all(self) -> None:
        wanted = [
            Wanted(item, target.tensor.file, target.tensor.begin, target.tensor.end)
            for item, target in enumerate(self._targets)
        ]
        slots = asyncio.Semaphore(reads_at_once(*self._rates(), background=self._background))
        async with asyncio.TaskGroup() as group:
            for run in coalesce(wanted):
                at = run.begin
                while at < run.end:
                    end = min(run.end, at + piece_bytes(*self._rates(), background=self._background))
                    await slots.acquire()
                    await self._pay(end - at)
                    group.create_task(self._read(run, at, end)).add_done_callback(lambda _task: slots.release())
                    at = end

    async def _read(self, run: Range, begin: int, end: int) -> None:
        """Bring bytes `[begin, end)` of the run's file into place."""
        at = begin
        try:
            async with aclosing(self._source.read(run.file, begin, end)) as pieces:
                async for piece in pieces:
                    await self._land(run, at, piece)
                    at += piece.nbytes
        except SourceError as error:
            item = next((item for item, _, _ in overlap(run.parts, at, at + 1)), run.parts[0].item)
            raise FetchError(f"tensor {self._targets[item].tensor.source_name}: {error}") from error

    async def _land(self, run: Range, at: int, data: memoryview) -> None:
        """Write file bytes from `at` on to the tensors that they belong to, then verify what became complete."""
        parts = [(self._growing[item], low, high) for item, low, high in overlap(run.parts, at, at + data.nbytes)]

        def write() -> None:
            offset = 0
            for growing, low, high in parts:
                try:
                    growing.write(low, data[offset : offset + high - low])
                except CodecError as error:
                    raise self._altered(growing, str(error)) from error
                offset += high - low

        # A tiny piece may be the one that a long compressed run has waited for.
        tiny = data.nbytes <= _INLINE_BYTES and not any(growing.compressed for growing, _, _ in parts)
        await self._with_room(lambda: self._work(write, tiny))
        self._on_bytes(data.nbytes)
        for growing, low, high in parts:
            growing.target.segment.progress.add_received(high - low)
            growing.wrote(low, high)
            await self._verify(growing)

    async def _verify(self, growing: Growing) -> None:
        """Hash on; whoever comes while another is hashing leaves the rest to that one."""
        if growing.hashing or growing.landed:
            return
        growing.hashing = True
        try:
            while growing.to_hash >= _HASH_STEP or (growing.complete and growing.to_hash):
                await self._work(growing.hash_step, growing.to_hash <= _INLINE_BYTES)
        finally:
            growing.hashing = False
        if not growing.complete:
            return
        if growing.digest() != growing.target.tensor.sha256:
            raise self._altered(growing, "SHA-256 differs")
        growing.landed = True
        growing.target.segment.progress.set_landed(growing.target.index)
        self._on_landed(growing.target.segment, growing.target.index)

    def _altered(self, growing: Growing, how: str) -> FetchError:
        tensor = growing.target.tensor
        return FetchError(
            f"tensor {tensor.source_name}: the bytes at {self._source.url}/{tensor.file} are not the ones that were "
            f"registered ({how}): the file was changed or is corrupt. Restore it, or register the model again."
        )

    async def _work(self, work: Callable[[], None], tiny: bool) -> None:
        """Do it here when tiny, else in a thread."""
        if tiny:
            work()
        else:
            await in_pool(self._pool, work)
