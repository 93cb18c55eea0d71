"""What a stage needs: the `prefetch` effect of docs/interfaces.md section 7, parsed and validated strictly.

An effect decides which bytes are read from where and which files are written, so nothing of it is taken on trust:
every field is checked here, once, and the rest of the package relies on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

# Bytes of one element, by the dtype names of the safetensors format.
DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
CODEC = "blosc"
"""How a tensor may be compressed at its source; see compressed.py."""
SOURCE_SCHEMES = frozenset({"file", "http", "https", "s3", "gs", "az"})
MAX_FILE_BYTES = 512 * 1024 * 1024

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf")


# Identity of a tensor's content: SHA-256 and size. The size is in it so that a wrong size can never borrow other bytes.
Key = tuple[str, int]


class SpecError(ValueError):
    """The effect is malformed; the message names the field and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a stage.

    `name` is what the engine calls it, `source_name` what the source file calls it (they differ for an alias such as a
    tied `lm_head.weight`); `[begin, end)` of `file`, absolute, are its bytes, or with `codec` what decodes to them;
    `sha256` is the digest of its own bytes.
    """

    name: str
    source_name: str
    file: str
    begin: int
    end: int
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    codec: str | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes, in memory."""
        return DTYPE_BYTES[self.dtype] * math.prod(self.shape)

    @property
    def source_bytes(self) -> int:
        """Size in bytes, at the source and on the wire."""
        return self.end - self.begin

    @property
    def key(self) -> Key:
        """Identity of the content."""
        return (self.sha256, self.nbytes)


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One small file that the engine reads beside the weights (config, tokenizer); `size` in bytes."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Prefetch:
    """A valid `prefetch` effect. `tensors` are in load order; `rate_bps` is bytes per second, None for no own cap.

    `deadline_ms` (since the epoch) says whose turn it is on the node's link; None: behind all that have one.
    """

    group_id: str
    version: int
    stage_id: str
    source: str
    tensors: tuple[TensorSpec, ...]
    files: tuple[FileSpec, ...]
    config_overrides: Mapping[str, Any]
    rate_bps: int | None
    background: bool = False
    deadline_ms: int | None = None

    def same_content(self, other: Prefetch) -> bool:
        """Whether both ask for the same bytes and files (whatever their version, rate and urgency)."""
        return (self.tensors, self.files, dict(self.config_overrides)) == (
            other.tensors,
            other.files,
            dict(other.config_overrides),
        )

    @staticmethod
    def from_json(obj: object) -> Prefetch:
        """Parse the decoded JSON of an effect. Raises SpecError naming the first bad field."""
        top = _Fields(obj, "prefetch")
        top.only(
            {
                "v",
                "kind",
                "group_id",
                "version",
                "stage_id",
                "source",
                "tensors",
                "files",
                "config_overrides",
                "rate_bps",
                "background",
                "deadline_ms",
            }
        )
        if top.integer("v", 1) != 1:
            raise SpecError("prefetch.v: this node understands version 1 only")
        if top.text("kind") != "prefetch":
            raise SpecError("prefetch.kind: expected 'prefetch'")
        overrides = top.get("config_overrides", {})
        if not isinstance(overrides, dict) or not all(isinstance(key, str) for key in overrides):
            raise SpecError("prefetch.config_overrides: expected an object")
        files = tuple(_file(item, f"files[{i}]") for i, item in enumerate(top.array("files")))
        names = [file.name for file in files]
        if len(set(names)) != len(names):
            raise SpecError("prefetch.files: a file name appears twice")
        if overrides and "config.json" not in names:
            raise SpecError("prefetch.config_overrides: given, but 'config.json' is not among the files")
        tensors = tuple(_tensor(item, f"tensors[{i}]") for i, item in enumerate(top.array("tensors")))
        if not tensors:
            raise SpecError("prefetch.tensors: a stage has at least one tensor")
        _check_consistent(tensors)
        rate = top.get("rate_bps", None)
        background = top.get("background", False)
        deadline = top.get("deadline_ms", None)
        if not isinstance(background, bool):
            raise SpecError("prefetch.background: expected true or false")
        return Prefetch(
            group_id=top.identifier("group_id"),
            version=top.integer("version", 0),
            stage_id=top.identifier("stage_id"),
            source=_source(top.text("source")),
            tensors=tensors,
            files=files,
            config_overrides=overrides,
            rate_bps=None if rate is None else top.integer("rate_bps", 1),
            background=background,
            deadline_ms=None if deadline is None else top.integer("deadline_ms", 0),
        )


class _Fields:
    """An object of the effect, read field by field; errors carry the path of the field."""

    def __init__(self, obj: object, path: str) -> None:
        if not isinstance(obj, dict):
            raise SpecError(f"{path}: expected an object")
        self._obj: dict[str, Any] = obj
        self._path = path

    def only(self, known: set[str]) -> None:
        unknown = sorted(str(key) for key in self._obj if key not in known)
        if unknown:
            raise SpecError(f"{self._path}.{unknown[0]}: unknown field")

    def get(self, name: str, default: Any) -> Any:
        return self._obj.get(name, default)

    def _required(self, name: str) -> Any:
        if name not in self._obj:
            raise SpecError(f"{self._path}.{name}: missing")
        return self._obj[name]

    def text(self, name: str) -> str:
        value = self._required(name)
        if not isinstance(value, str) or not value or len(value) > 4096 or any(ord(char) < 32 for char in value):
            raise SpecError(f"{self._path}.{name}: expected a non-empty printable text")
        return value

    def integer(self, name: str, least: int) -> int:
        value = self._required(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise SpecError(f"{self._path}.{name}: expected an integer of at least {least}")
        return value

    def array(self, name: str) -> list[Any]:
        value = self._required(name)
        if not isinstance(value, list):
            raise SpecError(f"{self._path}.{name}: expected a list")
        return value

    def identifier(self, name: str) -> str:
        value = self.text(name)
        if not _ID.fullmatch(value):
            raise SpecError(f"{self._path}.{name}: may hold letters, digits, '_', '-' and '.', at most 128")
        return value

    def digest(self, name: str) -> str:
        value = self.text(name)
        if not _SHA256.fullmatch(value):
            raise SpecError(f"{self._path}.{name}: expected 64 lower-case hexadecimal digits")
        return value

    def relative_path(self, name: str) -> str:
        value = self.text(name)
        if "\\" in value or any(part in ("", ".", "..") for part in value.split("/")):
            raise SpecError(f"{self._path}.{name}: must be a relative path inside the source, without '.' or '..'")
        return value


def _tensor(obj: object, path: str) -> TensorSpec:
    fields = _Fields(obj, path)
    fields.only({"name", "source_name", "file", "begin", "end", "dtype", "shape", "sha256", "codec"})
    name = fields.text("name")
    dtype = fields.text("dtype")
    if dtype not in DTYPE_BYTES:
        raise SpecError(f"{path}.dtype: {dtype!r} is not supported; known are {', '.join(DTYPE_BYTES)}")
    shape = fields.array("shape")
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**48 for size in shape):
        raise SpecError(f"{path}.shape: expected a list of non-negative integers")
    begin, end = fields.integer("begin", 0), fields.integer("end", 0)
    wanted = DTYPE_BYTES[dtype] * math.prod(shape)
    codec = fields.get("codec", None)
    if codec not in (None, CODEC):
        raise SpecError(f"{path}.codec: this node knows {CODEC!r} only; update it")
    if codec is not None and (end <= begin or not wanted):
        raise SpecError(f"{path}.codec: a tensor or range without bytes cannot be compressed")
    if codec is None and end - begin != wanted:
        raise SpecError(f"{path}.end: [{begin}, {end}) has {end - begin} bytes, but {dtype} {shape} has {wanted}")
    return TensorSpec(
        name=name,
        source_name=fields.text("source_name") if fields.get("source_name", None) is not None else name,
        file=fields.relative_path("file"),
        begin=begin,
        end=end,
        dtype=dtype,
        shape=tuple(shape),
        sha256=fields.digest("sha256"),
        codec=codec,
    )


def _file(obj: object, path: str) -> FileSpec:
    fields = _Fields(obj, path)
    fields.only({"name", "size", "sha256"})
    name = fields.relative_path("name")
    if name.lower().endswith(_WEIGHT_SUFFIXES):
        raise SpecError(f"{path}.name: {name!r} is a weight file or index; weights belong in 'tensors'")
    size = fields.integer("size", 0)
    if size > MAX_FILE_BYTES:
        raise SpecError(f"{path}.size: {size} bytes; a file beside the weights may have {MAX_FILE_BYTES}")
    return FileSpec(name=name, size=size, sha256=fields.digest("sha256"))


def _check_consistent(tensors: tuple[TensorSpec, ...]) -> None:
    """Names are unique, one source tensor has one content, and byte ranges are equal or disjoint."""
    names: set[str] = set()
    by_source: dict[str, TensorSpec] = {}
    for i, tensor in enumerate(tensors):
        if tensor.name in names or tensor.name == "__metadata__" or tensor.source_name == "__metadata__":
            raise SpecError(f"tensors[{i}].name: {tensor.name!r} appears twice or is reserved")
        names.add(tensor.name)
        known = by_source.setdefault(tensor.source_name, tensor)
        if (known.file, known.begin, known.end, known.sha256) != (tensor.file, tensor.begin, tensor.end, tensor.sha256):
            raise SpecError(f"tensors[{i}].source_name: {tensor.source_name!r} is given with two places or digests")
    ranges = sorted({(t.file, t.begin, t.end, t.sha256, t.source_name) for t in tensors if t.source_bytes})
    for left, right in pairwise(ranges):
        if left[0] == right[0] and right[1] < left[2]:
            raise SpecError(f"tensors: {left[4]!r} and {right[4]!r} overlap in {left[0]}")


def _source(url: str) -> str:
    try:
        parts = urlsplit(url)
        user = parts.username
    except ValueError as error:
        raise SpecError(f"prefetch.source: not a URL: {error}") from None
    if parts.scheme not in SOURCE_SCHEMES:
        raise SpecError(f"prefetch.source: scheme must be one of {', '.join(sorted(SOURCE_SCHEMES))}")
    if user is not None or parts.query or parts.fragment:
        raise SpecError(
            "prefetch.source: credentials, '?' and '#' do not belong in it; the node's environment has them"
        )
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise SpecError("prefetch.source: a local directory is written file:///absolute/path")
    if parts.scheme != "file" and not parts.netloc:
        raise SpecError("prefetch.source: the host or bucket is missing")
    if any(part == ".." for part in parts.path.split("/")):
        raise SpecError("prefetch.source: '..' is not allowed")
    return url.rstrip("/") or url
