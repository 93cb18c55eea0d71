"""The sidecar of a segment: how far its bytes have landed, shared between noded and the loading engines by mmap.

One small file `<segment>.landed` beside `<segment>.safetensors`, little-endian:

    offset  size  field
    0       8     magic "HYDLAND1"
    8       4     number of tensors n
    12      1     aborted: 1 when nobody fetches the missing tensors any more
    13      3     zero
    16      8     bytes received so far: grows while bytes flow, so a reader tells slow from stalled
    24      4     length of the reason
    28      996   reason of the abort, UTF-8
    1024    n     one byte a tensor, in the segment's order: 1 once all its bytes are there and its digest matched

noded is the only writer. A flag goes from 0 to 1 only after the tensor's bytes were written and hashed in place, and
never back. The file lives as long as its segment and survives noded: after a restart the same file is continued, so
an engine that is waiting on it goes on. The segment file itself exists, at its full size, before the first flag is set.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_MAGIC = b"HYDLAND1"
_HEAD = struct.Struct("<8sIB3xQI")
_ABORTED_AT, _BYTES_AT, _REASON_LENGTH_AT, _REASON_AT, _FLAGS_AT = 12, 16, 24, 28, 1024
_REASON_MOST = _FLAGS_AT - _REASON_AT


class ProgressError(Exception):
    """The file is not a complete sidecar."""


class Progress:
    """A mapped sidecar. Make one with `create` or `open`; `close` unmaps it."""

    def __init__(self, path: Path, mapped: mmap.mmap, count: int) -> None:
        self.path = path
        self.count = count
        self._map = mapped

    @classmethod
    def create(cls, path: Path, count: int) -> Progress:
        """Write a fresh sidecar for `count` tensors, mode 0600. Raises OSError (ENOSPC, FileExistsError)."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _FLAGS_AT + count)
            os.pwrite(fd, _HEAD.pack(_MAGIC, count, 0, 0, 0), 0)
            return cls(path, mmap.mmap(fd, _FLAGS_AT + count), count)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(fd)

    @classmethod
    def open(cls, path: Path, writable: bool = False) -> Progress:
        """Map an existing sidecar. Raises ProgressError when it is not one, OSError when it cannot be opened."""
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            if size < _FLAGS_AT:
                raise ProgressError(f"{path}: too short for a progress file")
            magic, count, *_ = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
            if magic != _MAGIC or size != _FLAGS_AT + count:
                raise ProgressError(f"{path}: not a progress file of this version")
            prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            return cls(path, mmap.mmap(fd, size, prot=prot), count)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Unmap."""
        self._map.close()

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return _FLAGS_AT + self.count

    def landed(self, index: int) -> bool:
        """Whether tensor `index` is complete and verified."""
        return self._map[_FLAGS_AT + index] == 1

    def landed_count(self) -> int:
        """How many tensors are complete and verified."""
        return self._map[_FLAGS_AT : _FLAGS_AT + self.count].count(1)

    def set_landed(self, index: int) -> None:
        """Publish tensor `index`: its bytes are in place and their digest matched."""
        self._map[_FLAGS_AT + index] = 1

    def received(self) -> int:
        """Bytes received so far."""
        return int.from_bytes(self._map[_BYTES_AT : _BYTES_AT + 8], "little")

    def add_received(self, size: int) -> None:
        """Count bytes that arrived."""
        self._map[_BYTES_AT : _BYTES_AT + 8] = (self.received() + size).to_bytes(8, "little")

    def aborted(self) -> str | None:
        """The reason why missing tensors will not come, or None while they may."""
        if self._map[_ABORTED_AT] == 0:
            return None
        length = int.from_bytes(self._map[_REASON_LENGTH_AT : _REASON_LENGTH_AT + 4], "little")
        return self._map[_REASON_AT : _REASON_AT + min(length, _REASON_MOST)].decode("utf-8", "replace")

    def abort(self, reason: str) -> None:
        """Tell readers that the missing tensors will not come, and why (cut at 996 bytes)."""
        text = reason.encode()[:_REASON_MOST]
        self._map[_REASON_AT : _REASON_AT + len(text)] = text
        self._map[_REASON_LENGTH_AT : _REASON_LENGTH_AT + 4] = len(text).to_bytes(4, "little")
        self._map[_ABORTED_AT] = 1

    def resume(self) -> None:
        """Take an abort back: the missing tensors are being fetched again."""
        self._map[_ABORTED_AT] = 0
