"""The small files beside the weights: fetched once, kept by digest, linked into a stage's model directory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from engine.weights.source import Source, SourceError
from engine.weights.spec import FileSpec
from engine.weights.threads import first_cause


class FilesError(Exception):
    """A file cannot be had, or is not the one that was registered; the message says which and what to do."""


class FileCache:
    """Verified files, named by SHA-256, in one directory. A file that a model directory links to is in use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wanted: Counter[str] = Counter()

    def recover(self) -> None:
        """Make the directory, and drop what an earlier process left half-written."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for leftover in self._folder.glob("*.tmp"):
            leftover.unlink()

    def bytes_held(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self._folder.iterdir())

    def evict_unused(self) -> bool:
        """Drop every file that no model directory links to and that is not `wanted`; whether there was one."""
        unused = [
            path
            for path in self._folder.iterdir()
            if path.stat().st_nlink == 1 and path.suffix != ".tmp" and path.name not in self._wanted
        ]
        for path in unused:
            path.unlink()
        return bool(unused)

    @contextmanager
    def wanted(self, files: Iterable[FileSpec]) -> Iterator[None]:
        """Keep these files, as far as they are here or come, before a model directory links to them."""
        digests = {spec.sha256 for spec in files}
        self._wanted.update(digests)
        try:
            yield
        finally:
            self._wanted -= Counter(digests)

    async def provide(
        self,
        files: Sequence[FileSpec],
        overrides: Mapping[str, Any],
        model_dir: Path,
        source: Source,
        pay: Callable[[int], Awaitable[None]],
        piece_bytes: int,
    ) -> None:
        """Put the files into `model_dir`, fetching those that are not held; `overrides` replace top-level keys of
        config.json. `pay` is awaited for `piece_bytes` at a time, before the read. Raises FilesError or OSError."""
        try:
            async with asyncio.TaskGroup() as group:
                for spec in {spec.sha256: spec for spec in files if not (self._folder / spec.sha256).exists()}.values():
                    group.create_task(self._fetch(spec, source, pay, piece_bytes))
            self._link(files, overrides, model_dir)
        except ExceptionGroup as group_error:
            raise first_cause(group_error) from group_error

    def _link(self, files: Sequence[FileSpec], overrides: Mapping[str, Any], model_dir: Path) -> None:
        for spec in files:
            target = model_dir / spec.name
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(target.name + ".tmp")
            temporary.unlink(missing_ok=True)
            if spec.name == "config.json" and overrides:
                temporary.write_bytes(_overridden((self._folder / spec.sha256).read_bytes(), overrides))
            else:
                os.link(self._folder / spec.sha256, temporary)
            os.replace(temporary, target)

    async def _fetch(
        self, spec: FileSpec, source: Source, pay: Callable[[int], Awaitable[None]], piece_bytes: int
    ) -> None:
        data = bytearray()
        try:
            while len(data) < spec.size:
                end = min(spec.size, len(data) + piece_bytes)
                await pay(end - len(data))
                async with aclosing(source.read(spec.name, len(data), end)) as pieces:
                    async for piece in pieces:
                        data += piece
        except SourceError as error:
            raise FilesError(f"file {spec.name}: {error}") from error
        if hashlib.sha256(data).hexdigest() != spec.sha256:
            raise FilesError(
                f"file {spec.name}: {source.url}/{spec.name} is not the one that was registered (SHA-256 differs): it "
                "was changed or is corrupt. Restore it, or register the model again."
            )
        temporary = self._folder / f"{spec.sha256}.{secrets.token_hex(4)}.tmp"
        try:
            temporary.write_bytes(data)
            os.replace(temporary, self._folder / spec.sha256)
        finally:
            temporary.unlink(missing_ok=True)


def _overridden(config: bytes, overrides: Mapping[str, Any]) -> bytes:
    try:
        parsed = json.loads(config)
    except ValueError as error:
        raise FilesError(f"file config.json: not JSON: {error}. Repair it, then register the model again.") from error
    if not isinstance(parsed, dict):
        raise FilesError("file config.json: not a JSON object. Repair it, then register the model again.")
    return json.dumps(parsed | dict(overrides), indent=2).encode()
