"""The engine's side: tensors out of shared memory as they land, without a copy.

Runs inside SGLang's process: the standard library, torch and this package's stdlib-only modules. Waits on the sidecars
that `progress` describes, so it works on while noded restarts.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.weights import load_spec as spec_file
from engine.weights.load_spec import Entry
from engine.weights.progress import Progress, ProgressError
from engine.weights.spec import DTYPE_BYTES

_PAUSE_S = 0.002
_LOOK_AGAIN_S = 1.0
_MAP_NORESERVE = 0x4000  # Linux; Python 3.11's mmap does not name it.

# torch's names of the safetensors dtypes.
_TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "U16": "uint16", "I16": "int16", "F16": "float16", "BF16": "bfloat16", "U32": "uint32", "I32": "int32",
    "F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64",
}  # fmt: skip


class WeightsError(Exception):
    """The weights will not come; the message says why in words for a person."""


def iterate(
    load_spec: Path, stall_timeout_s: float = 120.0, on_event: Callable[[str], None] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield (name, torch.Tensor) in load order, each as soon as its bytes are complete and verified.

    The tensors are views of a private mapping: free to read while any of them lives, and writing to one changes only
    this process' copy. (A tensor whose place is not aligned for its dtype is copied.) `on_event` gets "load_start",
    "first_tensor" and "load_end". Raises WeightsError when the fetch was given up, or when no byte arrives for
    `stall_timeout_s` seconds.
    """
    notify = on_event or (lambda _event: None)
    notify("load_start")
    reader = _Reader(load_spec, stall_timeout_s)
    try:
        for i in range(reader.count):
            entry = reader.wait(i)
            if i == 0:
                notify("first_tensor")
            yield entry.name, reader.tensor(entry)
    finally:
        reader.close()
    notify("load_end")


class _Reader:
    """The load spec, the sidecars and segments opened so far."""

    def __init__(self, path: Path, stall_timeout_s: float) -> None:
        self._path = path
        self._stall_timeout_s = stall_timeout_s
        self._sidecars: dict[str, Progress] = {}
        self._segments: dict[str, mmap.mmap] = {}
        self._entries = self._first_spec()
        self.count = len(self._entries)

    def close(self) -> None:
        """Unmap the sidecars. Segments stay mapped as long as a tensor lives."""
        for progress in self._sidecars.values():
            progress.close()

    def wait(self, i: int) -> Entry:
        """Wait until tensor `i` has landed and return its (final) place."""
        seen, deadline = -1, time.monotonic() + self._stall_timeout_s
        look_again = time.monotonic() + _LOOK_AGAIN_S
        while True:
            entry = self._entries[i]
            progress = self._progress(entry)
            if progress is not None:
                if progress.landed(entry.index):
                    return entry
                reason = progress.aborted()
                if reason is not None and not self._moved(i):
                    raise WeightsError(f"tensor {entry.name} will not come: {reason}")
                received = progress.received()
                if received != seen:
                    seen, deadline = received, time.monotonic() + self._stall_timeout_s
                elif time.monotonic() > look_again:
                    # A daemon that was killed while it made the segment makes another after its restart.
                    self._moved(i)
                    look_again = time.monotonic() + _LOOK_AGAIN_S
            elif not self._moved(i):
                raise WeightsError(f"tensor {entry.name}: {entry.progress} is gone; the node gave the fetch up")
            if time.monotonic() > deadline:
                raise WeightsError(
                    f"no byte arrived for {self._stall_timeout_s:.0f} s while waiting for tensor {entry.name}: "
                    "look at this node's daemon (is it running?) and at the model's source"
                )
            time.sleep(_PAUSE_S)

    def tensor(self, entry: Entry) -> Any:
        """A torch tensor over the mapped bytes."""
        import torch

        dtype = getattr(torch, _TORCH_NAMES[entry.dtype], None)
        if dtype is None:
            raise WeightsError(f"tensor {entry.name}: this torch has no dtype for {entry.dtype}")
        if entry.nbytes == 0:
            return torch.empty(entry.shape, dtype=dtype)
        mapped = self._segment(entry)
        width = DTYPE_BYTES[entry.dtype]
        if entry.offset % width:
            data = bytearray(mapped[entry.offset : entry.offset + entry.nbytes])
            return torch.frombuffer(data, dtype=dtype).reshape(entry.shape)
        return torch.frombuffer(mapped, dtype=dtype, count=entry.nbytes // width, offset=entry.offset).reshape(
            entry.shape
        )

    def _first_spec(self) -> list[Entry]:
        deadline = time.monotonic() + self._stall_timeout_s
        while (entries := self._read_spec()) is None:
            if time.monotonic() > deadline:
                raise WeightsError(
                    f"{self._path} did not appear in {self._stall_timeout_s:.0f} s: the node has no prefetch for this "
                    "stage; look at its daemon"
                )
            time.sleep(_PAUSE_S)
        return entries

    def _read_spec(self) -> list[Entry] | None:
        try:
            return spec_file.read(self._path)
        except FileNotFoundError:
            return None
        except (OSError, spec_file.LoadSpecError) as error:
            raise WeightsError(f"cannot read the load spec: {error}") from error

    def _moved(self, i: int) -> bool:
        """Re-read the load spec; whether tensor `i` is now somewhere else. noded writes it before it aborts."""
        before = self._entries[i]
        # Gone: the stage was released; what was read stays true and the abort that follows ends the wait.
        self._entries = self._read_spec() or self._entries
        return self._entries[i] != before

    def _progress(self, entry: Entry) -> Progress | None:
        progress = self._sidecars.get(entry.progress)
        if progress is None:
            try:
                progress = self._sidecars[entry.progress] = Progress.open(Path(entry.progress))
            except FileNotFoundError:
                return None
            except (OSError, ProgressError) as error:
                raise WeightsError(f"cannot read {entry.progress}: {error}") from error
        return progress

    def _segment(self, entry: Entry) -> mmap.mmap:
        mapped = self._segments.get(entry.segment)
        if mapped is None:
            try:
                fd = os.open(entry.segment, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise WeightsError(f"tensor {entry.name}: cannot open its bytes: {error}") from error
            try:
                # Private and writable: torch wants a writable buffer, and a write must never reach the shared bytes.
                mapped = mmap.mmap(
                    fd, 0, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
                )
            finally:
                os.close(fd)
            self._segments[entry.segment] = mapped
        return mapped
