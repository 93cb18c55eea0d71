"""Inspecting a model's source at registration: is it complete, uncorrupted, and of a kind that pipelines can serve?

Every byte is read once, to record each tensor's SHA-256: nodes accept only bytes that match.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from registry.compressed_format import HeaderTensor, decoded
from registry.errors import SourceError
from registry.manifest import (
    EMBED_TENSOR,
    HEAD_TENSOR,
    MANIFEST_FORMAT,
    PIPELINE_ARCHITECTURES,
    FileDoc,
    ManifestDoc,
    TensorDoc,
    largest_useful_stages,
    layer_part,
    load_order,
    tensor_bytes,
    tensor_group,
    tensor_groups,
)
from registry.safetensors_header import LENGTH_BYTES, header_length, parse_header
from registry.source_reader import SourceReader, check_file_name, check_source, open_source

__all__ = ["Progress", "check_source", "inspect_source"]

# Called with bytes hashed so far and bytes in all; from several threads, but never from two at once.
Progress = Callable[[int, int], None]

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
# What SGLang reads beside the weights. Code files are not among them: nothing of a model's own code is ever run.
SMALL_FILES = (
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
MAX_SMALL_FILE_BYTES = 100_000_000
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_CHUNK_BYTES = 8 * 1024 * 1024
_KV_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


def inspect_source(source: str, progress: Progress | None = None) -> ManifestDoc:
    """Read and check a model at `source` (see `check_source`); returns its manifest. Raises SourceError."""
    reader = open_source(check_source(source))
    config = _read_config(reader)
    headers = read_headers(reader)
    tied = config["tie_word_embeddings"]
    wanted = _check_layout(headers, config, tied)
    files = _read_small_files(reader)
    tensors = load_order(_digest_all(reader, wanted, progress))
    manifest: ManifestDoc = {
        "format": MANIFEST_FORMAT,
        "architecture": config["architecture"],
        "layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "vocab_size": config["vocab_size"],
        "dtype": config["dtype"],
        "tied_embeddings": tied,
        "context_length": config["max_position_embeddings"],
        "kv_bytes_per_token": _kv_bytes_per_token(config),
        "weight_bytes": sum(tensor_bytes(tensor) for tensor in tensors),
        "max_stages": 1,
        "tensors": tensors,
        "files": files,
    }
    manifest["max_stages"] = largest_useful_stages(tensor_groups(manifest))
    return manifest


def _read_config(reader: SourceReader) -> dict[str, Any]:
    """The fields of config.json that matter here, checked."""
    document = _read_json(reader, CONFIG_FILE)
    architectures = document.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    if architecture not in PIPELINE_ARCHITECTURES:
        known = ", ".join(sorted(PIPELINE_ARCHITECTURES))
        raise SourceError(
            f"{CONFIG_FILE}: architecture {str(architecture)[:80]!r} is not supported; supported: {known}"
        )
    config: dict[str, Any] = {"architecture": architecture}
    for field in (
        "num_hidden_layers",
        "hidden_size",
        "vocab_size",
        "num_attention_heads",
        "max_position_embeddings",
    ):
        config[field] = _positive(field, document.get(field))
    config["num_key_value_heads"] = _positive(
        "num_key_value_heads", document.get("num_key_value_heads") or config["num_attention_heads"]
    )
    config["head_dim"] = _positive(
        "head_dim", document.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    )
    tied = document.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise SourceError(f"{CONFIG_FILE}: tie_word_embeddings must be true or false")
    config["tie_word_embeddings"] = tied
    dtype = document.get("dtype") or document.get("torch_dtype") or "float32"
    if dtype not in _KV_BYTES:
        raise SourceError(f"{CONFIG_FILE}: dtype {str(dtype)[:40]!r} is not one of {', '.join(_KV_BYTES)}")
    config["dtype"] = dtype
    return config


def _positive(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**40:
        raise SourceError(f"{CONFIG_FILE}: {field} must be a positive whole number")
    return value


def _read_json(reader: SourceReader, name: str) -> dict[str, Any]:
    size = reader.size(name)
    if size is None:
        raise SourceError(f"there is no {name} at the source; it must be a model directory with safetensors files")
    if size > MAX_SMALL_FILE_BYTES:
        raise SourceError(f"{name} has {size} bytes; that is no configuration file")
    try:
        document = json.loads(reader.read(name, 0, size))
    except (ValueError, RecursionError):
        raise SourceError(f"{name} is not valid JSON; copy it again") from None
    if not isinstance(document, dict):
        raise SourceError(f"{name} must hold a JSON object")
    return document


def read_headers(reader: SourceReader) -> list[tuple[str, HeaderTensor]]:
    """Every tensor of the model with its file, from the index's shards or the single file."""
    if reader.size(INDEX_FILE) is None:
        if reader.size(SINGLE_FILE) is None:
            raise SourceError(f"there is neither {SINGLE_FILE} nor {INDEX_FILE} at the source")
        return [(SINGLE_FILE, tensor) for tensor in _read_header(reader, SINGLE_FILE)]
    weight_map = _read_json(reader, INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f"{INDEX_FILE} has no weight_map; copy it again")
    shards = sorted({check_file_name(file) for file in weight_map.values()})
    headers = {file: _read_header(reader, file) for file in shards}
    found = {tensor["name"]: file for file, tensors in headers.items() for tensor in tensors}
    for name, file in weight_map.items():
        if found.get(name) != file:
            raise SourceError(f"{INDEX_FILE} puts tensor {name[:120]} into {file}, which does not hold it")
    # A shard may hold more than the index names (leftovers of a conversion); only what is indexed is the model.
    return [(file, tensor) for file in shards for tensor in headers[file] if weight_map.get(tensor["name"]) == file]


def _read_header(reader: SourceReader, file: str) -> list[HeaderTensor]:
    size = reader.size(file)
    if size is None:
        raise SourceError(f"shard {file} is missing at the source; download the model again")
    length = header_length(file, reader.read(file, 0, min(LENGTH_BYTES, size)), size)
    return parse_header(file, reader.read(file, LENGTH_BYTES, LENGTH_BYTES + length), size)


def _check_layout(
    headers: list[tuple[str, HeaderTensor]], config: dict[str, Any], tied: bool
) -> list[tuple[str, HeaderTensor]]:
    """The tensors to serve: every one belongs to a stage, no layer lacks any, shapes fit the configuration."""
    layers: dict[int, set[str]] = {number: set() for number in range(config["num_hidden_layers"])}
    by_name: dict[str, HeaderTensor] = {}
    for file, tensor in headers:
        name = tensor["name"]
        group = tensor_group(name)
        if group is None:
            raise SourceError(f"{file} holds tensor {name[:120]}, which {config['architecture']} does not have")
        if name in by_name:
            raise SourceError(f"tensor {name} is in two files")
        by_name[name] = tensor
        if group.startswith("layer:"):
            number = int(group.removeprefix("layer:"))
            if number not in layers:
                raise SourceError(f"{name} is beyond the {len(layers)} layers that {CONFIG_FILE} states")
            layers[number].add(layer_part(name))
    every_part = set[str]().union(*layers.values())
    for number, parts in layers.items():
        if every_part - parts or not parts:
            lacking = min(every_part - parts, default="any tensor")
            raise SourceError(f"layer {number} lacks {lacking}; a shard is missing or the model is incomplete")
    rows = [config["vocab_size"], config["hidden_size"]]
    required = [EMBED_TENSOR, "model.norm.weight", *([] if tied else [HEAD_TENSOR])]
    for name in required:
        if name not in by_name:
            hint = (
                f" (set tie_word_embeddings in {CONFIG_FILE} if it shares the embedding)" if name == HEAD_TENSOR else ""
            )
            raise SourceError(f"tensor {name} is missing{hint}")
    for name in (EMBED_TENSOR, HEAD_TENSOR):
        if name in by_name and by_name[name]["shape"] != rows:
            raise SourceError(f"tensor {name} has shape {by_name[name]['shape']}, but {CONFIG_FILE} says {rows}")
    # A tied model's own copy of the projection is never read by the engine.
    return [(file, tensor) for file, tensor in headers if not (tied and tensor["name"] == HEAD_TENSOR)]


def _read_small_files(reader: SourceReader) -> list[FileDoc]:
    files: list[FileDoc] = []
    for name in SMALL_FILES:
        size = reader.size(name)
        if size is None:
            continue
        if size > MAX_SMALL_FILE_BYTES:
            raise SourceError(f"{name} has {size} bytes; at most {MAX_SMALL_FILE_BYTES} are possible")
        files.append({"name": name, "size": size, "sha256": hashlib.sha256(reader.read(name, 0, size)).hexdigest()})
    present = {file["name"] for file in files}
    if not any(present.issuperset(names) for names in _TOKENIZERS):
        raise SourceError(
            "there is no tokenizer at the source: tokenizer.json, tokenizer.model, or vocab.json and merges.txt"
        )
    return files


def _digest_all(
    reader: SourceReader, wanted: list[tuple[str, HeaderTensor]], progress: Progress | None
) -> list[TensorDoc]:
    """The tensors with the SHA-256 of their own bytes, read in chunks, and decoded if need be, by a few threads."""
    total = sum(tensor["end"] - tensor["begin"] for _file, tensor in wanted)
    lock, done = Lock(), 0

    def advance(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            if progress is not None:
                progress(done, total)

    def read(file: str, tensor: HeaderTensor) -> Iterator[bytes]:
        for begin in range(tensor["begin"], tensor["end"], _CHUNK_BYTES):
            chunk = reader.read(file, begin, min(begin + _CHUNK_BYTES, tensor["end"]))
            yield chunk
            advance(len(chunk))

    def digest(item: tuple[str, HeaderTensor]) -> TensorDoc:
        file, tensor = item
        hasher = hashlib.sha256()
        chunks = read(file, tensor)
        for data in decoded(tensor, chunks) if "codec" in tensor else chunks:
            hasher.update(data)
        if tensor.get("sha256", hasher.hexdigest()) != hasher.hexdigest():
            raise SourceError(f"{file} is corrupt: tensor {tensor['name']} is not what was compressed; copy it again")
        return {**tensor, "file": file, "sha256": hasher.hexdigest()}

    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="digest")
    try:
        return list(pool.map(digest, wanted))
    finally:
        pool.shutdown(cancel_futures=True)


def _kv_bytes_per_token(config: dict[str, Any]) -> int:
    """Keys and values of one token over all layers, at the model's own dtype."""
    element = _KV_BYTES[config["dtype"]]
    return int(2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * element)
