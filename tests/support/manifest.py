"""Effects for a stage of a model directory, made from its safetensors headers, as a registry would make them."""

from __future__ import annotations

import hashlib
import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

from support.leaks import plant

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WEIGHT_FILES = (".safetensors", ".safetensors.index.json")


@cache
def tensors_of(model: Path) -> tuple[dict[str, Any], ...]:
    """Every tensor of the model directory with its place and digest."""
    found = []
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                file.seek(begin)
                found.append(
                    {
                        "name": name,
                        "source_name": name,
                        "file": path.name,
                        "begin": begin,
                        "end": end,
                        "dtype": entry["dtype"],
                        "shape": entry["shape"],
                        "sha256": hashlib.sha256(file.read(end - begin)).hexdigest(),
                    }
                )
    return tuple(found)


@cache
def files_of(model: Path) -> tuple[dict[str, Any], ...]:
    """The small files beside the weights."""
    return tuple(
        {"name": path.name, "size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(model.iterdir())
        if path.is_file() and not path.name.endswith(WEIGHT_FILES)
    )


def config_of(model: Path) -> dict[str, Any]:
    """The model's config.json."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    return config


def stage_tensors(model: Path, rank: int, layers: list[int]) -> list[dict[str, Any]]:
    """Exactly the tensors of rank `rank`, which has `layers[rank]` layers, in load order."""
    first = sum(layers[:rank])
    wanted = set(range(first, first + layers[rank]))
    is_first, is_last = rank == 0, rank == len(layers) - 1
    tied = bool(config_of(model).get("tie_word_embeddings"))
    chosen = []
    for tensor in tensors_of(model):
        name = tensor["name"]
        if name.startswith("model.layers."):
            if int(name.split(".")[2]) in wanted:
                chosen.append(tensor)
        elif name == EMBEDDING:
            if is_first:
                chosen.append(tensor)
            if is_last and tied and len(layers) > 1:
                chosen.append({**tensor, "name": HEAD})
        elif is_last:
            chosen.append(tensor)
    return chosen


def prefetch_effect(
    model: Path, group: str, stage: str, rank: int, layers: list[int], version: int = 1, rate_bps: int | None = None
) -> dict[str, Any]:
    """The prefetch effect of one stage, read from the local directory."""
    untie = len(layers) > 1 and bool(config_of(model).get("tie_word_embeddings"))
    return {
        "v": 1,
        "kind": "prefetch",
        "group_id": group,
        "version": version,
        "stage_id": stage,
        "source": f"file://{model}",
        "tensors": stage_tensors(model, rank, layers),
        "files": list(files_of(model)),
        "config_overrides": {"tie_word_embeddings": False} if untie else {},
        "rate_bps": rate_bps,
    }


def launch_effect(
    group: str,
    stage: str,
    rank: int,
    layers: list[int],
    port: int,
    dist_port: int | None = None,
    version: int = 1,
    **settings: Any,
) -> dict[str, Any]:
    """The launch effect of one stage on device 0, float32 and without a grammar unless `settings` say otherwise."""
    return {
        "v": 1,
        "kind": "launch",
        "group_id": group,
        "version": version,
        "stage_id": stage,
        "device": 0,
        "rank": rank,
        "world": len(layers),
        "layers": layers,
        "dist_address": f"127.0.0.1:{dist_port}" if dist_port is not None else None,
        "port": port,
        "api_key": API_KEY,
        "model_name": MODEL_NAME,
        "memory_bytes": 2_000_000_000,
        "settings": {"dtype": "float32", "grammar_backend": "none", "context_length": 2048, **settings},
    }


def stop_effect(group: str, version: int = 2, stage: str | None = None, grace_s: float = 5) -> dict[str, Any]:
    """Stop a stage, or without one the whole group."""
    effect = {"v": 1, "kind": "stop", "group_id": group, "version": version, "grace_s": grace_s}
    return effect if stage is None else {**effect, "stage_id": stage}


API_KEY = plant("a group's key", "key-of-the-group-for-tests")
MODEL_NAME = "tests/model"
