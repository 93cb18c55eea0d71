"""A stage's weights as a node has them: a Llama's tensors in a segment in shared memory, its sidecar and load spec."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.gpu import SHARED
from bench.gpu.device import CannotMeasure
from engine.weights import load_spec
from engine.weights.segment import Segment, plan_layout, write_at
from engine.weights.spec import TensorSpec

BLOCK = 16 << 20
"""Random numbers are drawn once for so many elements, and repeated: no link or copy engine looks at them."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A stage of a Llama: `layers` of them, with embedding and head, in bfloat16."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int


STAGE = Shape(layers=8, hidden=4096, intermediate=11008, vocabulary=32000)
"""3.8 GB: a quarter of Llama 2 7B's layers, and both its ends."""

TINY = Shape(layers=2, hidden=64, intermediate=96, vocabulary=100)


@dataclass(frozen=True, slots=True)
class StageFile:
    """`nbytes`: of its tensors."""

    segment: Path
    load_spec: Path
    nbytes: int


def tensors(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in load order."""
    wide, narrow = (shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)
    square, norm = (shape.hidden, shape.hidden), (shape.hidden,)
    of_layer: list[tuple[str, tuple[int, ...]]] = [(f"self_attn.{name}_proj.weight", square) for name in "qkvo"]
    of_layer += [("mlp.gate_proj.weight", wide), ("mlp.up_proj.weight", wide), ("mlp.down_proj.weight", narrow)]
    of_layer += [("input_layernorm.weight", norm), ("post_attention_layernorm.weight", norm)]
    ends = (shape.vocabulary, shape.hidden)
    return [
        ("model.embed_tokens.weight", ends),
        ("lm_head.weight", ends),
        *((f"model.layers.{layer}.{name}", size) for layer in range(shape.layers) for name, size in of_layer),
        ("model.norm.weight", norm),
    ]


@contextmanager
def stage_file(shape: Shape) -> Iterator[StageFile]:
    """Make it, and remove it. Raises CannotMeasure when shared memory has no room."""
    named = tensors(shape)
    nbytes = sum(2 * torch.Size(size).numel() for _, size in named)
    free = shutil.disk_usage(SHARED).free
    if free < 1.2 * nbytes:
        raise CannotMeasure(
            f"{SHARED} has {free / 1e9:.1f} GB free, and {1.2 * nbytes / 1e9:.1f} are needed: make room"
        )
    folder = Path(tempfile.mkdtemp(prefix="hydrant-bench-gpu-", dir=SHARED))
    try:
        yield _write(folder, named, nbytes)
    finally:
        shutil.rmtree(folder)


def _write(folder: Path, named: list[tuple[str, tuple[int, ...]]], nbytes: int) -> StageFile:
    specs = [
        TensorSpec(name, name, "random", 0, 2 * torch.Size(size).numel(), "BF16", size, _digest(name))
        for name, size in named
    ]
    layout = plan_layout(specs)
    segment = Segment.create(folder, layout, 0.0)
    segment.make()
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).view(torch.uint8).numpy()
    with segment.path.open("r+b") as file:
        for index, slot in enumerate(layout.slots):
            # Another place of the block for each tensor: one that lands in another's place is seen.
            at = 2 * index * 4099 % block.nbytes
            for begin in range(slot.begin, slot.end, block.nbytes):
                size = min(block.nbytes, slot.end - begin)
                head = min(size, block.nbytes - at)
                write_at(file.fileno(), memoryview(block[at : at + head]), begin)
                write_at(file.fileno(), memoryview(block[: size - head]), begin + head)
            segment.progress.set_landed(index)
    segment.progress.close()
    sidecar = str(segment.path.with_suffix(".landed"))
    spec = folder / "load.json"
    load_spec.write(
        spec,
        "bench",
        [
            load_spec.Entry(one.name, one.dtype, one.shape, str(segment.path), sidecar, index, slot.begin, slot.nbytes)
            for index, (one, slot) in enumerate(zip(specs, layout.slots, strict=True))
        ],
    )
    return StageFile(segment.path, spec, nbytes)


def _digest(name: str) -> str:
    """A digest for the layout, which wants distinct ones; nothing here verifies it."""
    return hashlib.sha256(name.encode()).hexdigest()
