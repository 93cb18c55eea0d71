"""Tensors that lie compressed at their source: Blosc chunks of a MiB, one after the other (docs/interfaces.md, 9).

A chunk begins with 16 bytes that tell how many it decodes to and how many it takes, so a tensor can be decoded as far
as it has come. Nothing of the source is taken on trust: sizes are checked before anything is decoded, and the digest
of what comes out of it afterwards, as of any tensor.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

import blosc
from blosc import blosc_extension

MOST_DECODED = 16 * 1024 * 1024
"""Bytes that one chunk may decode to; ours have a MiB."""
_HEAD = struct.Struct("<4xIII")  # four bytes of versions and flags; decoded, of a block, of the chunk
_HEAD_BYTES = _HEAD.size

blosc.set_releasegil(True)
blosc.set_nthreads(1)  # tensors are decoded in threads of our own


class CodecError(Exception):
    """These bytes are not a compressed tensor of the promised size."""


class Decoder:
    """One tensor on its way in: pieces come in any order and from several threads, and are decoded in theirs.

    `decoded` bytes have been written so far, from the tensor's beginning on, without a gap.
    """

    def __init__(self, decoded_size: int, source_size: int) -> None:
        self.decoded = 0
        self._decoded_size = decoded_size
        self._source_size = source_size
        self._lock = threading.Lock()
        self._ahead: dict[int, memoryview] = {}
        self._joined = bytearray()
        self._came = 0

    def take(self, at: int, data: memoryview, write: Callable[[memoryview, int], None]) -> None:
        """Take the compressed bytes from offset `at` on, and `write(bytes, offset)` what can be decoded now.

        When `write` raises (no room), the same piece may be given again, and no byte is lost. Raises CodecError.
        """
        with self._lock:
            if at >= self._came:
                self._ahead[at] = data
            while self._came in self._ahead:
                piece = self._ahead.pop(self._came)
                self._joined += piece
                self._came += piece.nbytes
            used = 0
            try:
                while (size := self._whole_chunk(used)) is not None:
                    data_out = self._decode(bytes(memoryview(self._joined)[used : used + size]))
                    write(memoryview(data_out), self.decoded)
                    used += size
                    self.decoded += len(data_out)
            finally:
                del self._joined[:used]
            if self._came == self._source_size and (self._joined or self.decoded != self._decoded_size):
                raise CodecError(f"it decodes to {self.decoded} bytes instead of {self._decoded_size}")

    def _whole_chunk(self, at: int) -> int | None:
        """Bytes of the chunk that begins at `at`, None while it is not all there."""
        if len(self._joined) - at < _HEAD_BYTES:
            return None
        decoded, _, size = _HEAD.unpack_from(self._joined, at)
        if not 0 < decoded <= min(MOST_DECODED, self._decoded_size - self.decoded) or size <= _HEAD_BYTES:
            raise CodecError(f"a chunk of {size} bytes that decodes to {decoded} cannot be after {self.decoded} bytes")
        return size if len(self._joined) - at >= size else None

    def _decode(self, chunk: bytes) -> bytes:
        decoded, _, _ = _HEAD.unpack_from(chunk)
        try:
            data: bytes = blosc.decompress(chunk)
        except blosc_extension.error as error:
            raise CodecError(f"a chunk after {self.decoded} bytes cannot be decoded: {error}") from error
        if len(data) != decoded:
            raise CodecError(f"a chunk after {self.decoded} bytes decodes to {len(data)} bytes instead of {decoded}")
        return data
