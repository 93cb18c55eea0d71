"""Tiny model directories for tests: real safetensors files of any shape, whole or broken on purpose."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Tensor = tuple[str, list[int], bytes]  # dtype, shape, data


def safetensors_bytes(tensors: Mapping[str, Tensor], *, header_changes: Mapping[str, Any] | None = None) -> bytes:
    """A safetensors file. `header_changes` replaces header entries: to make a file that contradicts itself."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    header.update(header_changes or {})
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + b"".join(data for _, _, data in tensors.values())


def llama_tensors(
    *, layers: int = 4, hidden: int = 8, vocab: int = 32, tied: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """Random fp16 tensors in the layout of Llama."""
    generator = random.Random(seed)

    def make(*shape: int) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        return "F16", list(shape), generator.randbytes(2 * count)

    tensors = {"model.embed_tokens.weight": make(vocab, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        tensors[f"{prefix}.input_layernorm.weight"] = make(hidden)
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{prefix}.self_attn.{projection}.weight"] = make(hidden, hidden)
        tensors[f"{prefix}.mlp.down_proj.weight"] = make(hidden, 2 * hidden)
    tensors["model.norm.weight"] = make(hidden)
    if not tied:
        tensors["lm_head.weight"] = make(vocab, hidden)
    return tensors


def write_model(
    directory: Path,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    shards: int = 2,
    config_changes: Mapping[str, Any] | None = None,
    tied: bool = False,
    layers: int = 4,
) -> Path:
    """A complete model directory (configuration, tokenizer, weights in `shards` files); returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    content = dict(tensors) if tensors is not None else llama_tensors(layers=layers, tied=tied)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": 8,
        "vocab_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "torch_dtype": "float16",
        **(config_changes or {}),
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text("{}")
    if shards == 1:
        (directory / "model.safetensors").write_bytes(safetensors_bytes(content))
        return directory
    weight_map: dict[str, str] = {}
    for number, names in enumerate(_split(list(content), shards), start=1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        (directory / file).write_bytes(safetensors_bytes({name: content[name] for name in names}))
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(len(t[2]) for t in content.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def _split(names: Sequence[str], shards: int) -> list[Sequence[str]]:
    size = -(-len(names) // shards)
    return [names[start : start + size] for start in range(0, len(names), size)]
