"""One tensor while it comes: its bytes are written where they belong, decoded if need be, and hashed as it grows."""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from engine.weights.compressed import Decoder
from engine.weights.segment import Segment, write_at
from engine.weights.spec import TensorSpec


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor and the place it is to land in."""

    tensor: TensorSpec
    segment: Segment
    index: int


class Mapped:
    """A segment file, open for writing and mapped for hashing."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._fd, 0, prot=mmap.PROT_READ)

    def write(self, data: memoryview, offset: int) -> None:
        """Raises OSError (ENOSPC)."""
        # pwrite rather than a store through the mapping: no page fault for each page, and the GIL is free meanwhile.
        write_at(self._fd, data, offset)

    def view(self, begin: int, end: int) -> memoryview:
        """Bytes `[begin, end)`, to be released before `close`."""
        return memoryview(self._map)[begin:end]

    def close(self) -> None:
        """Unmap it."""
        self._map.close()
        os.close(self._fd)


class Growing:
    """How much of one tensor is in place and has been hashed.

    `write` is called in threads, the rest on the event loop. Offsets of `write` and `wrote` count the bytes at the
    source, all others those of the tensor.
    """

    def __init__(self, target: Target, mapped: Mapped) -> None:
        self.target = target
        self.hashing = False
        self.landed = False
        tensor = target.tensor
        self._mapped = mapped
        self._begin = target.segment.layout.slots[target.index].begin
        self._size = tensor.nbytes
        self._decoder = Decoder(tensor.nbytes, tensor.source_bytes) if tensor.codec else None
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._contiguous = 0
        self._ahead: dict[int, int] = {}

    def write(self, low: int, data: memoryview) -> None:
        """Bring the source's bytes from `low` on into place. Raises OSError (ENOSPC; the same bytes may be given
        again), CodecError."""
        if self._decoder is None:
            self._put(data, low)
        else:
            self._decoder.take(low, data, self._put)

    def _put(self, data: memoryview, offset: int) -> None:
        self._mapped.write(data, self._begin + offset)

    def wrote(self, low: int, high: int) -> None:
        """The source's bytes `[low, high)` were written; pieces never overlap."""
        if self._decoder is not None:
            self._contiguous = self._decoder.decoded
            return
        self._ahead[low] = high
        while self._contiguous in self._ahead:
            self._contiguous = self._ahead.pop(self._contiguous)

    @property
    def compressed(self) -> bool:
        """Whether its bytes are decoded on the way."""
        return self._decoder is not None

    @property
    def complete(self) -> bool:
        """Whether all of it is in place."""
        return self._contiguous == self._size

    @property
    def to_hash(self) -> int:
        """Bytes in place that have not been hashed."""
        return self._contiguous - self._hashed

    def hash_step(self) -> None:
        """Hash what is in place; in a thread, one at a time."""
        end = self._contiguous
        with self._mapped.view(self._begin + self._hashed, self._begin + end) as view:
            self._hash.update(view)
        self._hashed = end

    def digest(self) -> str:
        """SHA-256 of what was hashed, hexadecimal."""
        return self._hash.hexdigest()
