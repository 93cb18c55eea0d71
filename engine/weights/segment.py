"""A segment: tensors that were fetched together, as one safetensors file in shared memory, in load order.

Format: 8 bytes header length (little-endian), a JSON header padded with spaces, then the tensors' bytes without gaps.
The digests stand in the header's `__metadata__` (key `sha256:<tensor name>`), so that a segment can be recovered from
its two files alone. Which of its tensors are there is told by the sidecar (`progress`).
"""

from __future__ import annotations

import json
import math
import os
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.weights.progress import Progress, ProgressError
from engine.weights.spec import DTYPE_BYTES, Key, TensorSpec

_LENGTH = struct.Struct("<Q")
_ALIGN = 64
_MAX_HEADER = 100 * 1024 * 1024
_DIGEST_KEY = "sha256:"
EVICTED = ".evicted"
"""Suffix of a segment's file whose memory is being given back."""


class SegmentError(Exception):
    """The files do not hold a segment that can be used."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor's place: absolute byte range `[begin, end)` in the segment file."""

    sha256: str
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.end - self.begin

    @property
    def key(self) -> Key:
        """Identity of the content, as TensorSpec.key."""
        return (self.sha256, self.nbytes)


@dataclass(frozen=True, slots=True)
class Layout:
    """The header's bytes, every tensor's place in file order, and the file's size in bytes."""

    header: bytes
    slots: tuple[Slot, ...]
    size: int


def plan_layout(tensors: Sequence[TensorSpec]) -> Layout:
    """Lay tensors out in the given order. Their source names and contents must be distinct."""
    header: dict[str, object] = {
        "__metadata__": {"format": "pt"} | {_DIGEST_KEY + tensor.source_name: tensor.sha256 for tensor in tensors}
    }
    at = 0
    for tensor in tensors:
        end = at + tensor.nbytes
        header[tensor.source_name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _LENGTH.size) % _ALIGN)
    head = _LENGTH.pack(len(text)) + text
    slots, begin = [], len(head)
    for tensor in tensors:
        slots.append(Slot(tensor.sha256, begin, begin + tensor.nbytes))
        begin += tensor.nbytes
    return Layout(header=head, slots=tuple(slots), size=begin)


def read_layout(path: Path) -> Layout:
    """Read a segment's header back. Raises SegmentError when the file is not a whole segment written by us."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            if not 2 <= length <= min(_MAX_HEADER, size):
                raise SegmentError(f"{path}: no safetensors header")
            text = file.read(length)
        header = json.loads(text)
        metadata = header.pop("__metadata__")
        base = _LENGTH.size + length
        slots, at = [], 0
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if begin != at or end - begin != DTYPE_BYTES[entry["dtype"]] * math.prod(entry["shape"]):
                raise SegmentError(f"{path}: the header's offsets are inconsistent at {name}")
            slots.append(Slot(metadata[_DIGEST_KEY + name], base + begin, base + end))
            at = end
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise SegmentError(f"{path}: unreadable segment: {error}") from error
    if base + at != size:
        raise SegmentError(f"{path}: {size} bytes, the header describes {base + at}")
    return Layout(header=_LENGTH.pack(length) + text, slots=tuple(slots), size=size)


def write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, however many calls it takes. Raises OSError."""
    while data.nbytes:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


class Segment:
    """One segment of a store: its files, its places, and who uses it. Changed from the event loop's thread only."""

    def __init__(self, path: Path, layout: Layout, progress: Progress, last_used: float, made: bool) -> None:
        self.path = path
        self.made = made
        self.layout = layout
        self.progress = progress
        self.last_used = last_used
        self.pins: set[object] = set()
        self.fetching = False

    @classmethod
    def create(cls, folder: Path, layout: Layout, last_used: float) -> Segment:
        """A new segment with its sidecar, for readers to wait on; `make` makes the file itself. Raises OSError."""
        path = folder / f"{secrets.token_hex(8)}.safetensors"
        return cls(path, layout, Progress.create(path.with_suffix(".landed"), len(layout.slots)), last_used, False)

    @classmethod
    def recover(cls, sidecar: Path) -> Segment:
        """Take up a segment that an earlier process left. Raises SegmentError when it cannot be used."""
        path = sidecar.with_suffix(".safetensors")
        layout = read_layout(path)
        try:
            progress = Progress.open(sidecar, writable=True)
        except (OSError, ProgressError) as error:
            raise SegmentError(str(error)) from error
        if progress.count != len(layout.slots):
            progress.close()
            raise SegmentError(f"{sidecar}: {progress.count} tensors, the segment has {len(layout.slots)}")
        return cls(path, layout, progress, path.stat().st_mtime, True)

    def make(self) -> None:
        """Make the file at its full size with its header, if it is not there. Raises OSError (ENOSPC), and can be asked
        again then.

        Memory is taken as bytes are written, by pwrite(2), which says so when there is none; nobody touches through a
        mapping what has not been written, for that would be SIGBUS. Taking it all ahead kept the cores busy just when a
        start's processes were forked: four engines were up after 5.6 instead of 4.4 s.
        """
        if not self.made:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, self.layout.size)
                write_at(fd, memoryview(self.layout.header), 0)
            finally:
                os.close(fd)
            self.made = True

    @property
    def nbytes(self) -> int:
        """Shared memory that it takes, sidecar included."""
        return self.layout.size + self.progress.nbytes

    @property
    def missing(self) -> list[int]:
        """Indices of the tensors that have not landed."""
        return [index for index in range(len(self.layout.slots)) if not self.progress.landed(index)]

    @property
    def evictable(self) -> bool:
        """Whether nobody uses or fills it. (A fetch that has landed everything may still be winding up.)"""
        return not self.pins and not (self.fetching and self.progress.landed_count() < self.progress.count)

    def remove(self, reason: str) -> Path | None:
        """Take it out of the store. Readers that still wait are told `reason`; those that mapped it keep their bytes.

        Returns the file to unlink, None when there is none. That gives the memory back, and takes 0.13 s a GiB.
        """
        self.progress.abort(reason)
        self.progress.close()
        self.progress.path.unlink(missing_ok=True)
        try:
            return self.path.rename(self.path.with_suffix(EVICTED))
        except FileNotFoundError:
            return None
