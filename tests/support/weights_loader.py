"""What a loading engine does, in its own environment: `python weights_loader.py <load spec> <stall timeout s>`.

Prints a JSON line for each tensor (name, dtype, shape, SHA-256 of its bytes), then the events; or {"error": ...}.
Warnings are errors.
"""

import hashlib
import json
import sys
import warnings
from pathlib import Path

import torch

from engine.weights.reader import WeightsError, iterate


def main(load_spec: str, stall_timeout_s: str) -> None:
    events: list[str] = []
    kept = []
    try:
        for name, tensor in iterate(Path(load_spec), float(stall_timeout_s), events.append):
            kept.append(tensor)
            raw = tensor.flatten().view(torch.uint8).numpy().tobytes()
            line = {"name": name, "dtype": str(tensor.dtype), "shape": list(tensor.shape)}
            print(json.dumps(line | {"sha256": hashlib.sha256(raw).hexdigest()}), flush=True)
    except WeightsError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    # Writing to a tensor must change this process' private copy only.
    for tensor in kept:
        tensor.zero_()
    print(json.dumps({"events": events}), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(*sys.argv[1:])
