"""The models that are started: where they lie, and what a service level for them would be."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from bench.lab.node import ENGINE_PYTHON, ROOT
from registry.compressed_copy import write_compressed_copy

MODELS_DIR = Path("~/.cache/hydrant/models").expanduser()


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model directory below MODELS_DIR, made by engine.prepare_model with `options` if it is not there.

    `slo_ttft_ms`: the time to first token that its operator would ask for; Hydrant's own choice goes by it.
    """

    name: str
    folder: str
    options: tuple[str, ...]
    slo_ttft_ms: int

    @property
    def path(self) -> Path:
        """Its directory."""
        return MODELS_DIR / self.folder

    def prepare(self) -> None:
        """Make it if it is not there; prints its own progress. Raises CalledProcessError."""
        command: list[str | Path] = [ENGINE_PYTHON, "-m", "engine.prepare_model", "--out", self.path, *self.options]
        subprocess.run(command, cwd=ROOT, check=True, timeout=900)

    def compressed(self) -> BenchModel:
        """Its compressed copy, a model of its own, made from it if it is not there. Raises SourceError."""
        copy = replace(self, name=f"{self.name}-compressed", folder=f"{self.folder}.compressed")
        if not copy.path.exists():
            write_compressed_copy(str(self.path), copy.path)
        return copy

    @property
    def file_bytes(self) -> int:
        """Bytes of all that a node needs of it: weights and small files."""
        return sum(path.stat().st_size for path in self.path.iterdir() if not path.name.endswith(".index.json"))

    @property
    def weight_bytes(self) -> int:
        """Bytes of its safetensors files."""
        return sum(path.stat().st_size for path in self.path.glob("*.safetensors"))


MODELS = (
    BenchModel("smollm2", "SmolLM2-135M-Instruct", (), slo_ttft_ms=3_500),
    BenchModel("llama-1.4gb", "random-llama-1.4gb", ("--benchmark-llama", "--shard-mb", "400"), slo_ttft_ms=9_000),
)
