"""What noded sees of one stage's weights: progress, marks, error, and the two paths that the engine is given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from engine.weights.pacing import Pacer
from engine.weights.source import RetryPolicy, Source
from engine.weights.spec import Key, Prefetch

_NOTIFY_EVERY_S = 0.5


class WeightsUnavailable(Exception):
    """The stage's weights will not come; the message is StageWeights.error."""


class StageWeights:
    """The weights of one stage. Made and driven by WeightStore; everything happens on its event loop's thread.

    - `bytes_total`: all distinct tensors of the stage, as they lie at the source; `bytes_to_fetch`: those that this
      node did not hold when asked; `bytes_fetched`: how many of these have come over the wire.
    - `marks`: ms since the epoch of `prefetch_start`, `first_byte` (absent when nothing was fetched), `prefetch_end`.
    - `on_change`: called with this object when a mark, `verified`, `files_ready` or `error` changes, and at most twice
      a second while bytes flow.
    - `source`: where its bytes come from; one for files and tensors, since each costs a client with its certificates.
    - `load_spec`, `model_dir`: for the engine. The load spec exists at once; `model_dir` is complete at `files_ready`.
    """

    def __init__(self, request: Prefetch, folder: Path, retry: RetryPolicy) -> None:
        self.request = request
        self.source = Source(request.source, retry, came=self._began)
        self.stage_id = request.stage_id
        self.folder = folder
        self.load_spec = folder / "load.json"
        self.model_dir = folder / "model"
        self.bytes_total = sum({tensor.key: tensor.source_bytes for tensor in request.tensors}.values())
        self.bytes_to_fetch = 0
        self.bytes_fetched = 0
        self.error: str | None = None
        self.files_ready = False
        self.marks: dict[str, int] = {"prefetch_start": _now_ms()}
        self.on_change: list[Callable[[StageWeights], None]] = []
        self.pacer = Pacer(request.rate_bps)
        self.tasks: set[asyncio.Task[None]] = set()
        # All of them until the plan says otherwise: a stage without a plan must never count as verified.
        self._waiting: set[Key] = {tensor.key for tensor in request.tensors}
        self._files_settled = asyncio.Event()
        self._settled = asyncio.Event()
        self._notified_at = 0.0

    @property
    def verified(self) -> bool:
        """Whether every tensor's and file's digest has matched."""
        return "prefetch_end" in self.marks

    async def wait_files(self) -> None:
        """Wait until `model_dir` is complete. Raises WeightsUnavailable. Ends when the fetch does, which is bounded."""
        await self._files_settled.wait()
        if self.error is not None and not self.files_ready:
            raise WeightsUnavailable(self.error)

    async def wait_verified(self) -> None:
        """Wait until everything is verified. Raises WeightsUnavailable. Ends when the fetch does, which is bounded."""
        await self._settled.wait()
        if self.error is not None:
            raise WeightsUnavailable(self.error)

    def waits_for(self, keys: Iterable[Key]) -> bool:
        """Whether any of these contents has not landed yet for this stage, which still wants it."""
        return self.error is None and not self._waiting.isdisjoint(keys)

    def expect(self, keys: Iterable[Key]) -> None:
        """Set what has not landed yet."""
        self._waiting = set(keys)

    def received(self, size: int) -> None:
        """Bytes of this stage's own fetch came in."""
        self.bytes_fetched += size
        if time.monotonic() - self._notified_at >= _NOTIFY_EVERY_S:
            self.notify()

    def _began(self) -> None:
        """Note the first byte of the model, be it a tensor's or a small file's."""
        if "first_byte" not in self.marks:
            self.marks["first_byte"] = _now_ms()
            self.notify()

    def landed(self, key: Key) -> None:
        """A tensor's content is in place and verified."""
        self._waiting.discard(key)
        self.settle()

    def files_done(self) -> None:
        """The model directory is complete."""
        self.files_ready = True
        self._files_settled.set()
        self.notify()
        self.settle()

    def settle(self) -> None:
        """Become verified if nothing is missing any more."""
        if self.error is None and self.files_ready and not self._waiting and not self.verified:
            self.marks["prefetch_end"] = _now_ms()
            self._settled.set()
            self.notify()

    def fail(self, reason: str) -> None:
        """Give up; the first reason stays. Does nothing once verified."""
        if self.error is None and not self.verified:
            self.error = reason
            self._files_settled.set()
            self._settled.set()
            self.notify()

    def notify(self) -> None:
        """Call the hooks."""
        self._notified_at = time.monotonic()
        for hook in tuple(self.on_change):
            hook(self)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
