"""The header of a safetensors file: 8 bytes of length (little endian), JSON, then the tensors' bytes without a gap."""

import json
from math import prod
from typing import Any

from registry.compressed_format import HeaderTensor, as_decoded
from registry.errors import SourceError
from registry.manifest import DTYPE_BYTES

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own library
LENGTH_BYTES = 8


def header_length(file: str, prefix: bytes, file_size: int) -> int:
    """Bytes of the JSON header, from the file's first 8 bytes. Raises SourceError if the file cannot hold it."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) < LENGTH_BYTES or length < 2 or length > MAX_HEADER_BYTES:
        raise SourceError(f"{file} is not a safetensors file (impossible header length); copy it again")
    if LENGTH_BYTES + length > file_size:
        raise SourceError(f"{file} is truncated: its header alone needs {LENGTH_BYTES + length} of {file_size} bytes")
    return length


def parse_header(file: str, header: bytes, file_size: int) -> list[HeaderTensor]:
    """The tensors of a file in the order of their bytes, checked: known types, sizes that match the shapes, ranges that
    neither overlap nor leave gaps, and a file exactly as long as they need; those that are compressed are told as what
    they decode to. Raises SourceError."""
    try:
        document = json.loads(header, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file} has a corrupt header ({str(error)[:120]}); copy it again") from None
    if not isinstance(document, dict):
        raise SourceError(f"{file} has a corrupt header (not a JSON object); copy it again")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise SourceError(f"{file} has a corrupt header (__metadata__ is not an object); copy it again")
    start = LENGTH_BYTES + len(header)
    tensors = sorted(
        (_tensor(file, name, entry, start) for name, entry in document.items()), key=lambda t: (t["begin"], t["end"])
    )
    expected = start
    for tensor in tensors:
        if tensor["begin"] < expected:
            raise SourceError(f"{file} is corrupt: tensor {tensor['name']} overlaps the one before it")
        if tensor["begin"] > expected:
            raise SourceError(f"{file} is corrupt: {tensor['begin'] - expected} unused bytes before {tensor['name']}")
        expected = tensor["end"]
    if file_size < expected:
        raise SourceError(f"{file} is truncated: {file_size} of {expected} bytes; copy it again")
    if file_size > expected:
        raise SourceError(f"{file} is corrupt: {file_size - expected} bytes after its last tensor")
    return [as_decoded(file, tensor, metadata) for tensor in tensors]


def _tensor(file: str, name: str, entry: Any, start: int) -> HeaderTensor:
    where = f"{file} is corrupt: tensor {name[:120]}"
    if not isinstance(entry, dict):
        raise SourceError(f"{where} is not described by an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise SourceError(f"{where} has the unknown type {str(dtype)[:20]!r}")
    if not isinstance(shape, list) or not all(_is_count(size) for size in shape):
        raise SourceError(f"{where} has an impossible shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(at) for at in offsets):
        raise SourceError(f"{where} has impossible data_offsets")
    begin, end = offsets
    needed = prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != needed:
        raise SourceError(f"{where} takes {end - begin} bytes, but {dtype} of shape {shape} takes {needed}")
    return {"name": name, "dtype": dtype, "shape": shape, "begin": start + begin, "end": start + end}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result
