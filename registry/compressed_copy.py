"""Writes a copy of a model whose weights take fewer bytes, so that they cross a link sooner. Nothing of them is lost.

Of bfloat16 weights about a third is saved, of float32 a sixth: their exponents are alike (ZipNN, arXiv:2411.05239).
"""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from registry.compressed_format import METADATA_PREFIX, HeaderTensor, decoded, description, encoded
from registry.errors import SourceError
from registry.safetensors_header import LENGTH_BYTES
from registry.source_reader import SourceReader, check_source, open_source
from registry.sources import INDEX_FILE, SMALL_FILES, Progress, read_headers

_BLOCK_BYTES = 8 * 1024 * 1024
_SMALL_BYTES = 64 * 1024
"""Below it a tensor is left as it is: it would take as many reads, and save next to nothing."""
_WORTH = 0.97
"""A tensor whose beginning does not become smaller than this is left as it is."""
_MOST_DIGITS = 10**16


def write_compressed_copy(source: str, destination: Path, progress: Progress | None = None) -> tuple[int, int]:
    """Write the copy of the model at `source` into the new directory `destination`; returns its weights' bytes before
    and after. What is written is decoded again and compared. Raises SourceError; `destination` does not exist then.
    """
    if destination.exists():
        raise SourceError(f"{destination} exists already; name a directory that is to be made", "destination")
    reader = open_source(check_source(source))
    files: dict[str, list[HeaderTensor]] = {}
    for file, tensor in read_headers(reader):
        if "codec" in tensor:
            raise SourceError("the source is compressed already", "source")
        files.setdefault(file, []).append(tensor)
    partial = destination.with_name(destination.name + ".partial")
    try:
        partial.mkdir(parents=True)
    except FileExistsError:
        raise SourceError(
            f"{partial} is there, of a copy that was broken off; remove it first", "destination"
        ) from None
    except OSError as error:
        raise SourceError(f"{partial} cannot be made: {error.strerror}", "destination") from None
    try:
        sizes = _write(reader, files, partial, progress)
        partial.rename(destination)
    except OSError as error:
        raise SourceError(f"{destination} cannot be written: {error.strerror}", "destination") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sizes


def _write(
    reader: SourceReader, files: dict[str, list[HeaderTensor]], directory: Path, progress: Progress | None
) -> tuple[int, int]:
    for name in (*SMALL_FILES, INDEX_FILE):
        size = reader.size(name)
        if size is not None:
            (directory / name).write_bytes(reader.read(name, 0, size))
    total, done, after = sum(_size(tensor) for tensors in files.values() for tensor in tensors), 0, 0
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="compress") as pool:
        for file, tensors in files.items():
            writer = _Writer(directory / file, tensors)
            with writer.path.open("wb") as out:
                writer.begin(out)
                for tensor in tensors:
                    packs, digest, size = _worth_it(reader, file, tensor), hashlib.sha256(), 0
                    for raw, data in _in_order(pool, packs, reader, file, tensor):
                        digest.update(raw)
                        out.write(data)
                        size, done = size + len(data), done + len(raw)
                        if progress is not None:
                            progress(done, total)
                    writer.add(tensor, size, digest.hexdigest() if packs else None)
                writer.end(out)
            after += writer.data_bytes
    return total, after


class _Writer:
    """A safetensors file that is written before it is known how long its tensors become: room is left for a header."""

    def __init__(self, path: Path, tensors: Sequence[HeaderTensor]) -> None:
        self.path = path
        self.data_bytes = 0
        self._metadata: dict[str, str] = {"format": "pt"}
        self._entries: dict[str, object] = {}
        longest = {
            tensor["name"]: {
                "dtype": tensor["dtype"],
                "shape": [*tensor["shape"], _MOST_DIGITS],
                "data_offsets": [_MOST_DIGITS] * 2,
            }
            for tensor in tensors
        }
        described = {METADATA_PREFIX + t["name"]: description(t["dtype"], t["shape"], "0" * 64) for t in tensors}
        self._header_bytes = -(-len(_dumped({**self._metadata, **described}, longest)) // 8) * 8

    def begin(self, out: BinaryIO) -> None:
        out.write(b" " * (LENGTH_BYTES + self._header_bytes))

    def add(self, tensor: HeaderTensor, size: int, packed: str | None) -> None:
        """`size` bytes were written for this tensor; `packed`: they are compressed, and this is its digest."""
        entry: dict[str, object] = {"dtype": tensor["dtype"], "shape": tensor["shape"]}
        if packed is not None:
            entry = {"dtype": "U8", "shape": [size]}
            self._metadata[METADATA_PREFIX + tensor["name"]] = description(tensor["dtype"], tensor["shape"], packed)
        self._entries[tensor["name"]] = {**entry, "data_offsets": [self.data_bytes, self.data_bytes + size]}
        self.data_bytes += size

    def end(self, out: BinaryIO) -> None:
        out.seek(0)
        out.write(self._header_bytes.to_bytes(LENGTH_BYTES, "little"))
        out.write(_dumped(self._metadata, self._entries).ljust(self._header_bytes))


def _dumped(metadata: Mapping[str, str], entries: Mapping[str, object]) -> bytes:
    return json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()


def _size(tensor: HeaderTensor) -> int:
    return tensor["end"] - tensor["begin"]


def _worth_it(reader: SourceReader, file: str, tensor: HeaderTensor) -> bool:
    if _size(tensor) < _SMALL_BYTES:
        return False
    sample = reader.read(file, tensor["begin"], min(tensor["end"], tensor["begin"] + _BLOCK_BYTES))
    return len(encoded(sample, tensor["dtype"])) < _WORTH * len(sample)


def _in_order(
    pool: ThreadPoolExecutor, packs: bool, reader: SourceReader, file: str, tensor: HeaderTensor
) -> Iterator[tuple[bytes, bytes]]:
    """The tensor block by block, as it is and as it is to be written; a few are worked on at a time."""

    def work(begin: int) -> tuple[bytes, bytes]:
        data = reader.read(file, begin, min(begin + _BLOCK_BYTES, tensor["end"]))
        return data, (_checked(data, tensor) if packs else data)

    waiting: deque[Future[tuple[bytes, bytes]]] = deque()
    for begin in range(tensor["begin"], tensor["end"], _BLOCK_BYTES):
        waiting.append(pool.submit(work, begin))
        if len(waiting) > 8:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _checked(data: bytes, tensor: HeaderTensor) -> bytes:
    packed = encoded(data, tensor["dtype"])
    block: HeaderTensor = {**tensor, "dtype": "U8", "shape": [len(data)]}
    if b"".join(decoded(block, [packed])) != data:
        raise SourceError(f"tensor {tensor['name'][:120]} did not come back as it was; look at this machine's memory")
    return packed
