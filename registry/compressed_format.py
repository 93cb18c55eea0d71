"""How a tensor lies compressed in a safetensors file (docs/interfaces.md, 9): described by its header, decoded.

The file's own header calls it an array of bytes; an entry of `__metadata__` says what those decode to. They are Blosc
chunks, one after the other, each of at most MOST_DECODED bytes when decoded.
"""

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any, Literal, NotRequired

import blosc
from blosc import blosc_extension
from typing_extensions import TypedDict

from registry.errors import SourceError
from registry.manifest import DTYPE_BYTES

METADATA_PREFIX = "hydrant.blosc:"
CHUNK_BYTES = 1024 * 1024
MOST_DECODED = 16 * CHUNK_BYTES
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEAD = struct.Struct("<4xIII")  # four bytes of versions and flags; decoded, of a block, of the chunk

# All this holds for the process. Callers bring threads of their own.
blosc.set_releasegil(True)
blosc.set_nthreads(1)
# One block a chunk: zstd then meets a whole run of exponents at a time (0.84 of float32 is left, 0.92 by default, and
# decoding takes a fifth of the time).
blosc.set_blocksize(CHUNK_BYTES)


class HeaderTensor(TypedDict):
    """A tensor of one file; `begin` and `end` are absolute offsets in bytes.

    With `codec`, what lies there decodes to it, and `sha256` (hex) is of its own bytes as they were compressed.
    """

    name: str
    dtype: str
    shape: list[int]
    begin: int
    end: int
    codec: NotRequired[Literal["blosc"]]
    sha256: NotRequired[str]


def description(dtype: str, shape: list[int], sha256: str) -> str:
    """The value of a compressed tensor's entry in `__metadata__`."""
    return json.dumps({"dtype": dtype, "shape": shape, "sha256": sha256}, separators=(",", ":"))


def as_decoded(file: str, tensor: HeaderTensor, metadata: Mapping[str, Any]) -> HeaderTensor:
    """What `tensor` decodes to by the file's metadata; itself, if it is not compressed. Raises SourceError."""
    text = metadata.get(METADATA_PREFIX + tensor["name"])
    if text is None:
        return tensor
    where = f"{file} is corrupt: compressed tensor {tensor['name'][:120]}"
    try:
        said = json.loads(text)
        dtype, shape, sha256 = said["dtype"], said["shape"], said["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SourceError(f"{where} is not described") from None
    whole = isinstance(shape, list) and all(type(size) is int and 0 < size < 2**40 for size in shape)
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES or not whole:
        raise SourceError(f"{where} has an impossible type or shape")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise SourceError(f"{where} has no digest")
    if tensor["dtype"] != "U8" or tensor["end"] == tensor["begin"]:
        raise SourceError(f"{where} holds no bytes")
    return {**tensor, "dtype": dtype, "shape": shape, "codec": "blosc", "sha256": sha256}


def encoded(data: bytes, dtype: str) -> bytes:
    """`data` as chunks. Bytes are grouped by their place in an element first: exponents are alike, mantissas not."""
    width = DTYPE_BYTES[dtype]
    pieces = (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))
    return b"".join(
        blosc.compress(piece, typesize=width, clevel=1, shuffle=blosc.SHUFFLE, cname="zstd") for piece in pieces
    )


def decoded(tensor: HeaderTensor, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The tensor's own bytes from those at the source. Raises SourceError when they are not such a tensor's."""
    size, done, joined = DTYPE_BYTES[tensor["dtype"]] * prod(tensor["shape"]), 0, bytearray()
    for piece in pieces:
        joined += piece
        while len(joined) >= _HEAD.size:
            promised, _, length = _HEAD.unpack_from(joined)
            if not 0 < promised <= min(MOST_DECODED, size - done) or length <= _HEAD.size:
                raise _corrupt(tensor)
            if len(joined) < length:
                break
            chunk = bytes(joined[:length])
            del joined[:length]
            try:
                data = blosc.decompress(chunk)
            except blosc_extension.error:
                raise _corrupt(tensor) from None
            done += len(data)
            yield data
    if joined or done != size:
        raise _corrupt(tensor)


def _corrupt(tensor: HeaderTensor) -> SourceError:
    return SourceError(f"tensor {tensor['name'][:120]} cannot be decoded; compress the model again")
