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
import logging
import os
import shutil
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from engine.private_directory import make_private
from engine.weights import load_spec, recovery
from engine.weights.fetch import Fetch, FetchError
from engine.weights.files import FileCache, FilesError
from engine.weights.growing import Target
from engine.weights.inventory import Inventory, StoreError
from engine.weights.link import AT_ONCE, NEVER, Due, Link
from engine.weights.pacing import piece_bytes
from engine.weights.room import Room
from engine.weights.segment import Segment
from engine.weights.source import RetryPolicy, SourceError
from engine.weights.spec import Key, Prefetch, SpecError, TensorSpec
from engine.weights.stage import StageWeights, WeightsUnavailable

RESUME_WINDOW_S = 60.0

_log = logging.getLogger(__name__)


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
        self._link = Link(link_bps)
        self._retry = retry or RetryPolicy()
        self._resume_window_s = resume_window_s
        self._files = FileCache(root / "files")
        self._pool = ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 1), thread_name_prefix="weights")
        self._inventory = Inventory(root / "segments", self._pool)
        self._room = Room(self._inventory, self._files, limit_bytes, root)
        self._stages: dict[str, StageWeights] = {}
        self._unclaimed: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._lock_fd = -1
        self._closed = False

    async def start(self) -> None:
        """Take the directory and what an earlier daemon left in it, however that one ended.

        Segments are kept; stages found on disk keep theirs from eviction until they are asked for again, at most for
        the resume window (60 s). For as long an incomplete segment waits to be continued before it is dropped.
        Raises StoreError when another process or user owns the directory, OSError when it cannot be made.
        """
        try:
            make_private(self._root)
        except PermissionError as error:
            raise StoreError(str(error)) from None
        (self._root / "stages").mkdir(mode=0o700, exist_ok=True)
        self._lock_fd = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            self._lock_fd = -1
            raise StoreError(f"{self._root} is in use by another node daemon; give each its own directory") from None
        self._files.recover()
        for segment in self._inventory.recover():
            self._later(self._drop_unless_resumed, segment)
        for stage_id, paths in recovery.stages(self._root / "stages").items():
            self._inventory.pin_paths(stage_id, paths)
            self._unclaimed.add(stage_id)
            self._later(self._forget_unclaimed, stage_id)

    async def close(self) -> None:
        """Stop fetching and let go of the directory. Files stay, and engines that read them are not disturbed.

        Closing twice does nothing the second time.
        """
        if self._closed:
            return
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._pool.shutdown()
        self._inventory.close()
        if self._lock_fd >= 0:
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
        stage = StageWeights(request, self._root / "stages" / request.stage_id, self._retry)
        stage.model_dir.mkdir(parents=True, exist_ok=True)
        self._stages[request.stage_id] = stage
        self._run(stage, lambda: self._provide_files(stage))
        self._plan(stage)
        if request.stage_id in self._unclaimed:
            self._unclaimed.discard(request.stage_id)
            self._inventory.unpin(request.stage_id)
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
        self._fail(stage, "released")
        self._inventory.unpin(stage)
        shutil.rmtree(stage.folder, ignore_errors=True)

    def evict(self, digests: Iterable[str] | None) -> None:
        """Drop unused segments that hold any of these tensors (None: all unused ones, and unused files).

        Memory goes back by the segment: the tensors beside a named one go with it.
        """
        self._inventory.evict(None if digests is None else set(digests))
        if digests is None:
            self._files.evict_unused()

    def held_digests(self) -> list[str]:
        """SHA-256 of every tensor that is held and verified, sorted."""
        return self._inventory.held_digests()

    def bytes_held(self) -> int:
        """Shared memory taken, what is reserved for running fetches included."""
        return self._inventory.bytes_taken() + self._files.bytes_held()

    def _plan(self, stage: StageWeights) -> None:
        """Place and fetch the stage's tensors, at once or, in a shared memory that is full, when there is room."""
        try:
            self._place(stage)
        except (StoreError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                self._run(stage, lambda: self._room.having(lambda: self._placed(stage)))
            else:
                # Later, so that the caller can hang its hook on the stage first.
                asyncio.get_running_loop().call_soon(self._fail, stage, str(error))

    async def _placed(self, stage: StageWeights) -> None:
        self._place(stage)

    def _place(self, stage: StageWeights) -> None:
        """Find or make a place for every tensor of the stage, write its load spec, and fetch what is missing.

        Raises StoreError or OSError; nothing has been made then.
        """
        wanted: dict[Key, TensorSpec] = {}
        for tensor in stage.request.tensors:
            wanted.setdefault(tensor.key, tensor)
        places = self._inventory.find(wanted)
        missing = {key: tensor for key, tensor in wanted.items() if key not in places}
        filling = self._inventory.resumable(missing)
        for segment in filling:
            places |= {segment.layout.slots[index].key: (segment, index) for index in segment.missing}
        # Pinned before room is made, so that nothing it needs is evicted for it.
        for segment, _ in places.values():
            segment.pins.add(stage)
            segment.last_used = time.time()
        rest = [tensor for key, tensor in missing.items() if key not in places]
        fresh = None
        try:
            if rest:
                fresh = self._room.new_segment(rest)
                fresh.pins.add(stage)
                filling.append(fresh)
                places |= {tensor.key: (fresh, index) for index, tensor in enumerate(rest)}
            load_spec.write(stage.load_spec, stage.stage_id, [_entry(t, *places[t.key]) for t in stage.request.tensors])
        except (StoreError, OSError) as error:
            if fresh is not None:
                self._inventory.drop(fresh, str(error))
            raise
        stage.expect(key for key in wanted if not self._inventory.holds(key))
        if missing:
            self._inventory.start_filling(filling, {key: places[key] for key in missing})
            stage.bytes_to_fetch += sum(tensor.source_bytes for tensor in missing.values())
            targets = [Target(tensor, *places[key]) for key, tensor in missing.items()]
            self._run(stage, lambda: self._fetch(stage, targets, filling), lambda: self._ended(stage, filling))

    def _run(
        self,
        stage: StageWeights,
        work: Callable[[], Coroutine[Any, Any, None]],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Run one part of a stage's fetch; its failure is the stage's error. `ended` is called however it ends."""

        async def guarded() -> None:
            try:
                await work()
            except (FetchError, FilesError, SourceError, StoreError, WeightsUnavailable, OSError) as error:
                self._fail(stage, str(error))
            except Exception as error:  # noqa: BLE001 - a bug here must fail the stage, not leave it waiting.
                _log.exception("stage %s: internal error in the weight store", stage.stage_id)
                self._fail(stage, f"internal error in the weight store: {type(error).__name__}: {error}")

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            stage.tasks.discard(task)
            if not self._closed:
                ended()

        task = asyncio.get_running_loop().create_task(guarded(), name=f"weights {stage.stage_id}")
        self._tasks.add(task)
        stage.tasks.add(task)
        task.add_done_callback(done)

    def _fail(self, stage: StageWeights, reason: str) -> None:
        stage.fail(reason)
        for task in stage.tasks:
            task.cancel()

    async def _provide_files(self, stage: StageWeights) -> None:
        request = stage.request
        pay = partial(self._pay, stage, due=AT_ONCE)
        piece = piece_bytes(*self._rates(stage), background=request.background)

        async def provide() -> None:
            overrides = request.config_overrides
            await self._files.provide(request.files, overrides, stage.model_dir, stage.source, pay, piece)

        with self._files.wanted(request.files):
            await self._room.having(provide)
        stage.files_done()

    async def _fetch(self, stage: StageWeights, targets: list[Target], filling: list[Segment]) -> None:
        async def make() -> None:
            for segment in filling:
                segment.make()

        await self._room.having(make)
        await stage.wait_files()
        deadline = stage.request.deadline_ms
        fetch = Fetch(
            targets,
            stage.source,
            partial(self._pay, stage, due=NEVER if deadline is None else deadline),
            partial(self._rates, stage),
            self._pool,
            self._room.having,
            on_bytes=stage.received,
            on_landed=self._landed,
            background=stage.request.background,
        )
        await fetch.run()

    async def _pay(self, stage: StageWeights, size: int, due: Due) -> None:
        """Return when `size` bytes more may be asked for by the stage's own rate and on the node's link."""
        await stage.pacer.pay(size)
        await self._link.pay(size, due)

    def _rates(self, stage: StageWeights) -> tuple[int | None, int | None]:
        return stage.pacer.rate_bps, self._link.rate_bps

    def _landed(self, segment: Segment, index: int) -> None:
        key = self._inventory.landed(segment, index)
        for stage in list(self._stages.values()):
            if stage.waits_for((key,)):
                stage.landed(key)

    def _ended(self, stage: StageWeights, filling: list[Segment]) -> None:
        """A fetch is over. What did not land is taken out; those who wait for it plan anew before readers are told."""
        # One in which everything had landed may have been evicted while its fetch was winding up.
        filling = [segment for segment in filling if self._inventory.contains(segment)]
        lost = self._inventory.stop_filling(filling)
        if not lost:
            return
        reason = stage.error or "its fetch was stopped"
        stage.fail(reason)
        for other in list(self._stages.values()):
            if other is not stage and other.waits_for(lost):
                self._plan(other)
        for segment in filling:
            if segment.fetching or not segment.missing:
                continue
            if segment.progress.landed_count() == 0:
                self._inventory.drop(segment, reason)
            else:
                segment.progress.abort(reason)
                self._later(self._drop_unless_resumed, segment)

    def _drop_unless_resumed(self, segment: Segment) -> None:
        if not self._inventory.contains(segment) or segment.fetching or not segment.missing:
            return
        reason = segment.progress.aborted() or "its fetch was not continued"
        if segment.evictable:
            self._inventory.drop(segment, reason)
        else:
            segment.progress.abort(reason)
            self._later(self._drop_unless_resumed, segment)

    def _forget_unclaimed(self, stage_id: str) -> None:
        """Drop a stage that an earlier daemon left, unless it was asked for again."""
        if stage_id in self._unclaimed:
            self._unclaimed.discard(stage_id)
            self._inventory.unpin(stage_id)
            shutil.rmtree(self._root / "stages" / stage_id, ignore_errors=True)

    def _later(self, action: Callable[..., None], *args: object) -> None:
        """Call after the resume window."""

        def run() -> None:
            self._timers.discard(timer)
            action(*args)

        timer = asyncio.get_running_loop().call_later(self._resume_window_s, run)
        self._timers.add(timer)


def _entry(tensor: TensorSpec, place: Segment, index: int) -> load_spec.Entry:
    return load_spec.Entry(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        segment=str(place.path),
        progress=str(place.progress.path),
        index=index,
        offset=place.layout.slots[index].begin,
        nbytes=tensor.nbytes,
    )
