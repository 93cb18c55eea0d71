"""Which tensors a node holds or is fetching, in which segments, and what may be evicted for room."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from engine.weights import recovery
from engine.weights.segment import Segment, plan_layout
from engine.weights.spec import Key, TensorSpec

Place = tuple[Segment, int]


class StoreError(Exception):
    """The store cannot do it; the message says why and what to do."""


class Inventory:
    """The segments of one directory, indexed by content. Used from the event loop's thread only.

    `pool` gives memory back: unlinking gigabytes would hold the loop up.
    """

    def __init__(self, folder: Path, pool: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._pool = pool
        self._going: set[asyncio.Future[None]] = set()
        self._gone = 0
        self._segments: dict[Path, Segment] = {}
        # Content -> place of every tensor that has landed or is being fetched; `_held` are those that have landed.
        self._index: dict[Key, Place] = {}
        self._held: set[Key] = set()

    def recover(self) -> list[Segment]:
        """Take up what an earlier process left; returns the incomplete segments. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for segment in recovery.segments(self._folder):
            self._segments[segment.path] = segment
            for index, slot in enumerate(segment.layout.slots):
                if segment.progress.landed(index) and slot.key not in self._index:
                    self._index[slot.key] = (segment, index)
                    self._held.add(slot.key)
        return [segment for segment in self._segments.values() if segment.missing]

    def close(self) -> None:
        """Unmap everything; the files stay."""
        for segment in self._segments.values():
            segment.progress.close()

    def find(self, keys: Iterable[Key]) -> dict[Key, Place]:
        """The places of those contents that are held or being fetched. What someone has removed is dropped."""
        for segment in list(self._segments.values()):
            if segment.made and not segment.fetching and not segment.path.exists():
                self.drop(segment, "its file was removed from the weight store")
        return {key: self._index[key] for key in keys if key in self._index}

    def holds(self, key: Key) -> bool:
        """Whether the content is held and verified."""
        return key in self._held

    def held_digests(self) -> list[str]:
        """SHA-256 of every tensor that is held and verified, sorted."""
        return sorted({sha256 for sha256, _ in self._held})

    def bytes_taken(self) -> int:
        """Bytes of all segments, what is reserved for running fetches included."""
        return sum(segment.nbytes for segment in self._segments.values())

    def bytes_in_use(self) -> int:
        """Bytes of the segments that cannot be evicted now."""
        return sum(segment.nbytes for segment in self._segments.values() if not segment.evictable)

    def contains(self, segment: Segment) -> bool:
        """Whether the segment has not been dropped."""
        return self._segments.get(segment.path) is segment

    def resumable(self, missing: Mapping[Key, TensorSpec]) -> list[Segment]:
        """Segments whose fetch ended early and whose whole rest is wanted now."""
        found, taken = [], set[Key]()
        for segment in self._segments.values():
            if segment.fetching or not segment.made:
                continue
            rest = {segment.layout.slots[index].key for index in segment.missing}
            if rest and rest <= missing.keys() and rest.isdisjoint(taken):
                found.append(segment)
                taken |= rest
        return found

    def new_segment(self, tensors: Sequence[TensorSpec], limit_bytes: int) -> Segment:
        """A new segment, after evicting what is unused if the limit asks for it. Raises StoreError or OSError."""
        layout = plan_layout(tensors)
        in_use = self.bytes_in_use()
        if in_use + layout.size > limit_bytes:
            raise StoreError(
                f"the weight store's limit of {limit_bytes} bytes is too small: {layout.size} more are needed and "
                f"{in_use} are in use by running stages. Raise store_gb in the node's configuration, or stop a model "
                "on this node."
            )
        while self.bytes_taken() + layout.size > limit_bytes and self.evict_oldest():
            continue
        segment = Segment.create(self._folder, layout, time.time())
        self._segments[segment.path] = segment
        return segment

    def start_filling(self, segments: Iterable[Segment], places: Mapping[Key, Place]) -> None:
        """A fetch begins that will bring these contents into these segments."""
        for segment in segments:
            segment.fetching = True
            segment.progress.resume()
        self._index |= places

    def landed(self, segment: Segment, index: int) -> Key:
        """A tensor has landed; returns its content's key."""
        key = segment.layout.slots[index].key
        self._held.add(key)
        return key

    def stop_filling(self, segments: Iterable[Segment]) -> set[Key]:
        """A fetch is over; returns the contents that did not land, which are taken out of the index."""
        lost = set()
        for segment in segments:
            segment.fetching = False
            lost |= {segment.layout.slots[index].key for index in segment.missing}
        for key in lost:
            self._index.pop(key, None)
        return lost

    def unpin(self, pin: object) -> None:
        """A user needs its segments no more."""
        for segment in self._segments.values():
            if pin in segment.pins:
                segment.pins.discard(pin)
                segment.last_used = time.time()
                if segment.made:
                    # So that the order of eviction survives a restart.
                    with contextlib.suppress(FileNotFoundError):
                        os.utime(segment.path)

    def pin_paths(self, pin: object, paths: Iterable[Path]) -> None:
        """Keep the segments at these paths, as far as they exist."""
        for path in paths:
            if path in self._segments:
                self._segments[path].pins.add(pin)

    def evict_oldest(self) -> bool:
        """Drop the least recently used unused segment, incomplete ones first. False when there is none."""
        unused = [segment for segment in self._segments.values() if segment.evictable]
        if not unused:
            return False
        self.drop(min(unused, key=lambda segment: (not segment.missing, segment.last_used)), "evicted")
        return True

    def evict(self, digests: set[str] | None) -> None:
        """Drop the unused segments that hold any of these tensors; all unused ones when None."""
        for segment in list(self._segments.values()):
            if segment.evictable and (digests is None or any(slot.sha256 in digests for slot in segment.layout.slots)):
                self.drop(segment, "evicted")

    def drop(self, segment: Segment, reason: str) -> None:
        """Remove a segment; readers that still wait on it are told the reason."""
        del self._segments[segment.path]
        for slot in segment.layout.slots:
            if slot.key in self._index and self._index[slot.key][0] is segment:
                del self._index[slot.key]
                self._held.discard(slot.key)
        file = segment.remove(reason)
        if file is not None:
            going = asyncio.get_running_loop().run_in_executor(self._pool, partial(file.unlink, missing_ok=True))
            self._going.add(going)
            going.add_done_callback(self._freed)

    def _freed(self, going: asyncio.Future[None]) -> None:
        self._going.discard(going)
        self._gone += 1

    @property
    def given_back(self) -> int:
        """How many dropped segments have had their memory given back so far."""
        return self._gone

    async def more_given_back(self, than: int) -> bool:
        """Wait until the memory of dropped segments is free; whether `given_back` is now more than an earlier one."""
        if self._going:
            await asyncio.wait(set(self._going))
        return self._gone > than
