"""How long it takes until all tensors of a stage's file are on the device, and whether every byte of them is right."""

from __future__ import annotations

import time
from contextlib import nullcontext

import torch

from bench.gpu.device import Ops
from bench.gpu.rows import Row
from bench.gpu.stage_file import StageFile
from engine.weights import reader
from engine.weights.pinned_ring import copies_through

RING, PLAIN, LIBRARY = "Hydrant's reader and ring", "Hydrant's reader, unpinned", "safetensors.torch.load_file"


class WrongBytes(Exception):
    """A tensor arrived with other bytes; the message names it."""


class Loads:
    """Loads of one stage's file, which is complete in shared memory."""

    def __init__(self, ops: Ops, file: StageFile) -> None:
        self._ops, self._file = ops, file
        self.rows = {name: Row(name, "s") for name in (RING, PLAIN, LIBRARY)}

    def round(self) -> None:
        """Measure each once. Raises WrongBytes."""
        for name in self.rows:
            self._ops.forget()
            self._ops.synchronize()
            begun = time.monotonic()
            loaded = self._library() if name == LIBRARY else self._reader(name == RING)
            self._ops.synchronize()
            self.rows[name].samples.append(time.monotonic() - begun)
            if len(self.rows[name].samples) == 1:
                self.check(loaded)
            del loaded

    def check(self, loaded: dict[str, torch.Tensor]) -> None:
        """Raise WrongBytes unless these are the file's tensors."""
        names = []
        for name, expected in reader.iterate(self._file.load_spec):
            names.append(name)
            if not torch.equal(loaded[name].cpu().view(torch.int16), expected.view(torch.int16)):
                raise WrongBytes(f"{name} is not on the device as it is in the file")
        if sorted(names) != sorted(loaded):
            raise WrongBytes("there are other tensors on the device than in the file")

    def _reader(self, ring: bool) -> dict[str, torch.Tensor]:
        loaded = {}
        with copies_through(self._ops.ring) if ring else nullcontext():
            for name, tensor in reader.iterate(self._file.load_spec):
                loaded[name] = self._ops.empty(tensor.shape, tensor.dtype).copy_(tensor)
        return loaded

    def _library(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return dict(load_file(self._file.segment, device=self._ops.name))
