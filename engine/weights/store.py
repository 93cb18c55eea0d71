"""A node's weight store: tensors in shared memory, named by content, shared by all stages of the node.

    <root>/lock                          held by the one daemon that owns the directory
    <root>/segments/<id>.safetensors     tensors fetched together (`segment`)
    <root>/segments/<id>.landed          which of them have landed (`progress`)
    <root>/files/<sha256>                small files (`files`)
    <root>/stages/<stage id>/            load.json (`load_spec`) and model/, while the stage is not released

A tensor that is held, or being fetched for another stage, is never fetched again: what a stage lacks goes to a new
segment. When a fetch ends early (failure, release), stages that counted on it plan anew with their own source; what has
landed stays usable, and a later request that wants all of the rest continues the same segment. Memory is given back by
whole segments, least recently used first, never one that a stage uses.

All methods are called on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine.weights import load_spec, recovery
from engine.weights.fetch import Fetch, FetchError, Target
from engine.weights.files import FileCache, FilesError
from engine.weights.pacing import Pacer
from engine.weights.segment import Segment, plan_layout
from engine.weights.source import RetryPolicy, Source, SourceError
from engine.weights.spec import Prefetch, SpecError, TensorSpec
from engine.weights.stage import Key, StageWeights, WeightsUnavailable
from engine.weights.threads import in_pool

RESUME_WINDOW_S = 60.0


class StoreError(Exception):
    """The store cannot do it; the message says why and what to do."""


class WeightStore:
    """See the module. `limit_bytes` bounds its shared memory, `link_bps` (bytes/s) all its fetches together."""

    def __init__(
        self,
        root: Path,
        limit_bytes: int,
        link_bps: int | None = None,
        retry: RetryPolicy | None = None,
        resume_window_s: float = RESUME_WINDOW_S,
    ) -> None:
        self._root = root
        self._limit = limit_bytes
        self._link = Pacer(link_bps)
        self._retry = retry or RetryPolicy()
        self._resume_window_s = resume_window_s
        self._files = FileCache(root / "files")
        self._pool = ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 1), thread_name_prefix="weights")
        self._segments: dict[Path, Segment] = {}
        # Content -> place, of every tensor that has landed or is being fetched; `_held` are those that have landed.
        self._index: dict[Key, tuple[Segment, int]] = {}
        self._held: set[Key] = set()
        self._stages: dict[str, StageWeights] = {}
        self._unclaimed: set[str] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._lock_fd = -1
        self._closed = False

    async def start(self) -> None:
        """Take the directory and what an earlier daemon left in it, however that one ended.

        Segments are kept; stages found on disk keep theirs from eviction until they are asked for again, at most for
        the resume window (60 s). For as long an incomplete segment waits to be continued before it is dropped.
        Raises StoreError when another process owns the directory, OSError when it cannot be made.
        """
        for folder in (self._root, self._root / "segments", self._root / "stages"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            raise StoreError(f"{self._root} is in use by another node daemon; give each its own directory") from None
        self._files.recover()
        for segment in recovery.segments(self._root / "segments"):
            self._segments[segment.path] = segment
            for index, slot in enumerate(segment.layout.slots):
                if segment.progress.landed(index):
                    self._index.setdefault(slot.key, (segment, index))
                    self._held.add(slot.key)
            if segment.missing:
                self._later(self._drop_unless_resumed, segment)
        for stage_id, paths in recovery.stages(self._root / "stages").items():
            for path in paths & self._segments.keys():
                self._segments[path].pins.add(stage_id)
            self._unclaimed.add(stage_id)
            self._later(self._forget_unclaimed, stage_id)

    async def close(self) -> None:
        """Stop fetching and let go of the directory. Files stay, and engines that read them are not disturbed."""
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        tasks = {task for stage in self._stages.values() for task in stage.tasks}
        for task in tasks:
            task.cancel()
        if pending := tasks | self._retiring:
            await asyncio.wait(pending)
        self._pool.shutdown()
        for segment in self._segments.values():
            segment.progress.close()
        os.close(self._lock_fd)

    def prefetch(self, request: Prefetch) -> StageWeights:
        """Start bringing a stage's weights in, and return at once; its load spec exists then.

        Asked again for the same stage and content it returns the same object (and applies the rate). What goes wrong is
        told by the object's `error`. Raises SpecError when the stage is known with other content, OSError when the
        stage's directory cannot be written.
        """
        known = self._stages.get(request.stage_id)
        if known is not None:
            if not known.request.same_content(request):
                raise SpecError(f"stage_id: {request.stage_id} is known with other tensors or files; use a new one")
            known.pacer.set_rate(request.rate_bps)
            return known
        stage = StageWeights(request, self._root / "stages" / request.stage_id)
        stage.model_dir.mkdir(parents=True, exist_ok=True)
        self._stages[request.stage_id] = stage
        self._run(stage, self._provide_files(stage))
        self._plan(stage)
        if request.stage_id in self._unclaimed:
            self._unclaimed.discard(request.stage_id)
            self._unpin(request.stage_id)
        return stage

    def get(self, stage_id: str) -> StageWeights | None:
        """The stage, if it was asked for since the start and is not released."""
        return self._stages.get(stage_id)

    def set_rate(self, stage_id: str, rate_bps: int | None) -> None:
        """Re-pace a stage's fetch, also while it runs. An unknown stage is ignored: it may just have been released."""
        if (stage := self._stages.get(stage_id)) is not None:
            stage.pacer.set_rate(rate_bps)

    def release(self, stage_id: str) -> None:
        """The stage needs its weights no more: stop its fetch and drop its directory. Its bytes stay until evicted."""
        stage = self._stages.pop(stage_id, None)
        if stage is None:
            self._forget_unclaimed(stage_id)
            return
        stage.fail("released")
        for task in stage.tasks:
            task.cancel()
        self._unpin(stage)
        shutil.rmtree(stage.folder, ignore_errors=True)
        if stage.tasks:
            retiring = asyncio.get_running_loop().create_task(_settled(set(stage.tasks)))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    def evict(self, digests: Iterable[str] | None) -> None:
        """Drop unused segments that hold any of these tensors (None: all unused ones, and unused files).

        Memory goes back by the segment: the tensors beside a named one go with it.
        """
        named = None if digests is None else set(digests)
        for segment in list(self._segments.values()):
            if segment.evictable and (named is None or any(slot.sha256 in named for slot in segment.layout.slots)):
                self._drop(segment, "evicted")
        if named is None:
            self._files.evict_unused()

    def held_digests(self) -> list[str]:
        """SHA-256 of every tensor that is held and verified, sorted."""
        return sorted({sha256 for sha256, _ in self._held})

    def bytes_held(self) -> int:
        """Shared memory taken, what is reserved for running fetches included."""
        return sum(segment.nbytes for segment in self._segments.values()) + self._files.bytes_held()

    def _plan(self, stage: StageWeights) -> None:
        """Find or make a place for every tensor of the stage, write its load spec, and fetch what is missing."""
        wanted: dict[Key, TensorSpec] = {}
        for tensor in stage.request.tensors:
            wanted.setdefault(tensor.key, tensor)
        places = {key: self._index[key] for key in wanted if key in self._index}
        missing = {key: tensor for key, tensor in wanted.items() if key not in places}
        resumed = self._resumable(missing)
        for segment in resumed:
            places |= {segment.layout.slots[index].key: (segment, index) for index in segment.missing}
        # Pinned before room is made, so that nothing it needs is evicted for it.
        for segment, _ in places.values():
            segment.pins.add(stage)
            segment.last_used = time.time()
        filling = list(resumed)
        rest = [tensor for key, tensor in missing.items() if key not in places]
        fresh = None
        try:
            if rest:
                fresh = self._new_segment(rest)
                fresh.pins.add(stage)
                filling.append(fresh)
                places |= {tensor.key: (fresh, index) for index, tensor in enumerate(rest)}
            stage.places = places
            load_spec.write(stage.load_spec, stage.stage_id, [_entry(t, *places[t.key]) for t in stage.request.tensors])
        except (StoreError, OSError) as error:
            if fresh is not None:
                self._drop(fresh, str(error))
            # Later, so that the caller can hang its hook on the stage first.
            asyncio.get_running_loop().call_soon(self._fail, stage, str(error))
            return
        stage.expect(key for key in wanted if key not in self._held)
        targets = [Target(tensor, *places[key]) for key, tensor in missing.items()]
        if not targets:
            return
        for segment in filling:
            segment.fetching = True
            segment.progress.resume()
        self._index |= {key: places[key] for key in missing}
        stage.bytes_to_fetch += sum(tensor.nbytes for tensor in missing.values())
        self._run(stage, self._fetch(stage, targets, filling))

    def _resumable(self, missing: dict[Key, TensorSpec]) -> list[Segment]:
        """Segments whose fetch ended early and whose whole rest is wanted now."""
        found, taken = [], set[Key]()
        for segment in self._segments.values():
            if segment.fetching or not segment.allocated:
                continue
            rest = {segment.layout.slots[index].key for index in segment.missing}
            if rest and rest <= missing.keys() and rest.isdisjoint(taken):
                found.append(segment)
                taken |= rest
        return found

    def _new_segment(self, tensors: list[TensorSpec]) -> Segment:
        layout = plan_layout(tensors)
        in_use = sum(segment.nbytes for segment in self._segments.values() if not segment.evictable)
        if in_use + layout.size > self._limit:
            raise StoreError(
                f"the weight store's limit of {self._limit} bytes is too small: {layout.size} more are needed and "
                f"{in_use} are in use by running stages. Raise store_gb in the node's configuration, or stop a model "
                "on this node."
            )
        while self.bytes_held() + layout.size > self._limit and self._evict_oldest():
            continue
        segment = Segment.create(self._root / "segments", layout, time.time())
        self._segments[segment.path] = segment
        return segment

    def _run(self, stage: StageWeights, work: Coroutine[Any, Any, None]) -> None:
        """Run one part of a stage's fetch; its failure is the stage's error."""

        async def guarded() -> None:
            try:
                await work
            except (FetchError, FilesError, SourceError, StoreError, WeightsUnavailable, OSError) as error:
                self._fail(stage, str(error))
            except Exception as error:
                self._fail(stage, f"internal error in the weight store: {type(error).__name__}: {error}")
                raise

        task = asyncio.get_running_loop().create_task(guarded(), name=f"weights {stage.stage_id}")
        stage.tasks.add(task)
        task.add_done_callback(stage.tasks.discard)

    def _fail(self, stage: StageWeights, reason: str) -> None:
        stage.fail(reason)
        for task in stage.tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def _provide_files(self, stage: StageWeights) -> None:
        request = stage.request

        async def pay(size: int) -> None:
            await stage.pacer.pay(size)
            await self._link.pay(size)

        source = Source(request.source, self._retry)
        await self._files.provide(request.files, request.config_overrides, stage.model_dir, source, pay)
        stage.files_done()

    async def _fetch(self, stage: StageWeights, targets: list[Target], filling: list[Segment]) -> None:
        reason = "its fetch was stopped"
        try:
            for segment in filling:
                if not segment.allocated:
                    await self._allocate(segment)
            await stage.wait_files()
            fetch = Fetch(
                targets,
                Source(stage.request.source, self._retry),
                (stage.pacer, self._link),
                self._pool,
                stage.received,
                self._landed,
            )
            await fetch.run()
        except Exception as error:
            reason = str(error)
            raise
        finally:
            self._ended(stage, filling, reason)

    async def _allocate(self, segment: Segment) -> None:
        """Reserve a segment's memory. Raises StoreError when there is not enough even after evicting what is unused."""
        while True:
            try:
                await in_pool(self._pool, segment.allocate)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                if not self._evict_oldest():
                    raise StoreError(
                        f"shared memory is full: {segment.layout.size} bytes do not fit beside what runs. Enlarge "
                        f"the file system of {self._root}, lower store_gb, or stop a model on this node."
                    ) from error
            else:
                return

    def _landed(self, segment: Segment, index: int) -> None:
        key = segment.layout.slots[index].key
        self._held.add(key)
        for stage in list(self._stages.values()):
            if stage.waits_for((key,)):
                stage.landed(key)

    def _ended(self, stage: StageWeights, filling: list[Segment], reason: str) -> None:
        """A fetch is over. What did not land is taken out; those who wait for it plan anew before readers are told."""
        for segment in filling:
            segment.fetching = False
        if self._closed:
            return
        reason = stage.error or reason
        lost = {segment.layout.slots[index].key for segment in filling for index in segment.missing}
        if not lost:
            return
        for key in lost:
            self._index.pop(key, None)
        stage.fail(reason)
        for other in list(self._stages.values()):
            if other is not stage and other.waits_for(lost):
                self._plan(other)
        for segment in filling:
            if segment.fetching or not segment.missing:
                continue
            if segment.progress.landed_count() == 0:
                self._drop(segment, reason)
            else:
                segment.progress.abort(reason)
                self._later(self._drop_unless_resumed, segment)

    def _drop_unless_resumed(self, segment: Segment) -> None:
        if self._segments.get(segment.path) is not segment or segment.fetching or not segment.missing:
            return
        segment.progress.abort("its fetch was not continued")
        if segment.evictable:
            self._drop(segment, "its fetch was not continued")
        else:
            self._later(self._drop_unless_resumed, segment)

    def _forget_unclaimed(self, stage_id: str) -> None:
        """Drop a stage that an earlier daemon left, unless it was asked for again."""
        if stage_id in self._unclaimed:
            self._unclaimed.discard(stage_id)
            self._unpin(stage_id)
            shutil.rmtree(self._root / "stages" / stage_id, ignore_errors=True)

    def _unpin(self, pin: object) -> None:
        for segment in self._segments.values():
            if pin in segment.pins:
                segment.pins.discard(pin)
                segment.last_used = time.time()
                if segment.allocated:
                    os.utime(segment.path)

    def _evict_oldest(self) -> bool:
        """Drop the least recently used unused segment, the incomplete ones first. False when all are in use."""
        unused = [segment for segment in self._segments.values() if segment.evictable]
        if not unused:
            before = self._files.bytes_held()
            self._files.evict_unused()
            return self._files.bytes_held() < before
        self._drop(min(unused, key=lambda segment: (not segment.missing, segment.last_used)), "evicted")
        return True

    def _drop(self, segment: Segment, reason: str) -> None:
        del self._segments[segment.path]
        for slot in segment.layout.slots:
            if slot.key in self._index and self._index[slot.key][0] is segment:
                del self._index[slot.key]
                self._held.discard(slot.key)
        segment.remove(reason)

    def _later(self, action: Callable[..., None], *args: object) -> None:
        """Call after the resume window."""

        def run() -> None:
            self._timers.discard(timer)
            action(*args)

        timer = asyncio.get_running_loop().call_later(self._resume_window_s, run)
        self._timers.add(timer)


def _entry(tensor: TensorSpec, segment: Segment, index: int) -> load_spec.Entry:
    return load_spec.Entry(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        segment=str(segment.path),
        progress=str(segment.progress.path),
        index=index,
        offset=segment.layout.slots[index].begin,
        nbytes=tensor.nbytes,
    )


async def _settled(tasks: set[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)
