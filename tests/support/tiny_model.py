"""A model directory as small as the registry accepts: a few layers of a few numbers, in one safetensors file."""

import json
import random
import struct
from pathlib import Path

VOCAB = 32
HIDDEN = 8
LAYER_TENSORS = {
    "input_layernorm.weight": [HIDDEN],
    "mlp.down_proj.weight": [HIDDEN, 2 * HIDDEN],
    "self_attn.q_proj.weight": [HIDDEN, HIDDEN],
}


def write_tiny_model(folder: Path, *, layers: int = 4, seed: int = 1) -> Path:
    """Writes the directory and returns it."""
    folder.mkdir(parents=True)
    shapes = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN]}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER_TENSORS.items()}
    header: dict[str, object] = {}
    body = bytearray()
    rng = random.Random(seed)
    for name, shape in shapes.items():
        count = 1
        for dimension in shape:
            count *= dimension
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(body), len(body) + 2 * count]}
        body += rng.randbytes(2 * count)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": HIDDEN,
        "vocab_size": VOCAB,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return folder
