"""A model directory and the `prefetch` effect for it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.weights import load_spec
from engine.weights.spec import Prefetch
from registry.compressed_format import encoded


@dataclass
class Model:
    """Safetensors files in a directory; `tensors` in load order, as the effect lists them."""

    folder: Path
    tensors: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    plain: Model | None = None

    def data(self, name: str) -> bytes:
        """The true bytes of a tensor."""
        if self.plain is not None:
            return self.plain.data(name)
        tensor = next(tensor for tensor in self.tensors if tensor["name"] == name)
        return (self.folder / tensor["file"]).read_bytes()[tensor["begin"] : tensor["end"]]

    def effect(self, stage_id: str, names: Sequence[str] | None = None, **changes: Any) -> dict[str, Any]:
        """The prefetch effect of a stage with these tensors (all when None)."""
        return {
            "v": 1,
            "kind": "prefetch",
            "group_id": "grp_1",
            "version": 1,
            "stage_id": stage_id,
            "source": self.folder.as_uri(),
            "tensors": [t for t in self.tensors if names is None or t["name"] in names],
            "files": self.files,
            "config_overrides": {},
            "rate_bps": None,
        } | changes

    def request(self, stage_id: str, names: Sequence[str] | None = None, **changes: Any) -> Prefetch:
        """The effect, parsed."""
        return Prefetch.from_json(self.effect(stage_id, names, **changes))


def write_model(folder: Path, sizes: Sequence[int], per_file: int = 4, seed: int = 1, bits: int = 8) -> Model:
    """A model of U8 tensors `t000`, `t001`, ... of these sizes; inside a file they lie in reverse load order.

    `bits`: how many of each byte are random, so that the rest can be compressed away.
    """
    table = bytes(value % 2**bits for value in range(256))
    folder.mkdir(parents=True, exist_ok=True)
    model = Model(folder)
    rng = random.Random(seed)
    for number, start in enumerate(range(0, len(sizes), per_file)):
        file = f"model-{number:05d}.safetensors"
        chunk = list(enumerate(sizes))[start : start + per_file]
        header, at, bodies, entries = {}, 0, [], []
        for index, size in reversed(chunk):
            body = rng.randbytes(size).translate(table)
            header[f"t{index:03d}"] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
            entries.append((index, at, body))
            bodies.append(body)
            at += size
        text = json.dumps(header).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(bodies))
        base = 8 + len(text)
        for index, offset, body in sorted(entries):
            model.tensors.append(
                {
                    "name": f"t{index:03d}",
                    "file": file,
                    "begin": base + offset,
                    "end": base + offset + len(body),
                    "dtype": "U8",
                    "shape": [len(body)],
                    "sha256": hashlib.sha256(body).hexdigest(),
                }
            )
    for name, content in (("config.json", b'{"layers": 2, "tie": true}'), ("tokenizer.json", b'{"vocab": {}}')):
        (folder / name).write_bytes(content)
        model.files.append({"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    return model


def compressed(model: Model, folder: Path, width: str = "U8") -> Model:
    """A copy of a model in which every tensor that has bytes lies compressed, as of type `width`, one to a file."""
    folder.mkdir(parents=True)
    copy = Model(folder, files=model.files, plain=model)
    for file in model.files:
        (folder / file["name"]).write_bytes((model.folder / file["name"]).read_bytes())
    for tensor in model.tensors:
        data = model.data(tensor["name"])
        packed = encoded(data, width)
        if data:
            tensor = tensor | {"begin": 100, "end": 100 + len(packed), "codec": "blosc"}
        file = f"{tensor['name']}.safetensors"
        (folder / file).write_bytes(bytes(100) + packed)
        copy.tensors.append(tensor | {"file": file})
    return copy


def read_back(load_spec_path: Path) -> dict[str, bytes]:
    """The bytes that an engine would see for each name of a verified stage."""
    found = {}
    for entry in load_spec.read(load_spec_path):
        with Path(entry.segment).open("rb") as file:
            file.seek(entry.offset)
            found[entry.name] = file.read(entry.nbytes)
    return found


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)
