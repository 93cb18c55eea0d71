"""`python -m bench.coldstart`: the table, and bench/results/coldstart.json and .png. See docs/performance.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from bench import targets
from bench.coldstart import floor, naive_row, plot, smoothness, summary, table
from bench.coldstart.hydrant_row import HydrantRows
from bench.coldstart.models import MODELS, MODELS_DIR, BenchModel
from bench.coldstart.plans import Forced, force, free
from bench.coldstart.sample import Sample
from bench.coldstart.smoothness import Gaps
from bench.lab import Lab, LabError, LabUnavailable, NodeSettings, PacedNetwork
from bench.lab.control_plane import ControlPlane
from bench.lab.node import ROOT

NODE_MBIT = 400.0
LINK_BPS = int(NODE_MBIT * 1e6 / 8)
WARM_NODES = ("node-1", "node-2", "node-3", "node-4")
PLAIN_NODE = "node-5"
"""Without a warm runtime: for the rows that have none."""
ROWS = ("vllm", "naive", "prefetch", "stream", "warm", "pipeline-2", "pipeline-4", "compressed", "hydrant", "memory")
FLOOR_STAGES = (1, 2, 3, 4)
MAX_STAGES = 4
BODY = {"prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
"""A short prompt: what a CPU takes to read a long one says nothing of a cold start."""
RESULTS = ROOT / "bench/results"


class Run:
    """One run of the benchmark: models, rows and rounds, in an order that interleaves them."""

    def __init__(self, lab: Lab, plane: ControlPlane, models: list[BenchModel], rows: list[str]) -> None:
        self._lab, self._plane, self._rows = lab, plane, rows
        shaped = f"links of {NODE_MBIT:.0f} Mbit/s"
        self.links = shaped if lab.network.shaped else f"NO LINKS, fetches held to {NODE_MBIT:.0f} Mbit/s each"
        self.samples: list[Sample] = []
        self.floors: dict[tuple[str, int], list[float]] = defaultdict(list)
        self.gaps = Gaps()
        self.warm_bytes = [lab.nodes[name].client.report()["warm"]["memory_bytes"] for name in WARM_NODES]
        self._begun = time.monotonic()
        self._models = models
        self._plain = {model.name: HydrantRows(lab, plane, model, model.name, BODY) for model in models}
        self._compressed = {
            model.name: HydrantRows(lab, plane, model.compressed(), model.name, BODY) for model in models
        }

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"[bench {time.monotonic() - self._begun:5.0f} s] {text}", flush=True)

    def measure_floors(self, rounds: int) -> None:
        """Before anything decides by itself: starts that need no byte, asked of the nodes directly."""
        for number in range(1, rounds + 1):
            for model in self._models:
                plain = self._plain[model.name]
                for stages in FLOOR_STAGES:
                    seconds = floor.measure(self._lab, plain.row, plain.spec, stages, _body(model))
                    self.floors[model.name, stages].append(seconds)
                    self.say(f"floor {number}/{rounds}, {model.name}, {stages} stage(s): {seconds:.2f} s")

    def measure_smoothness(self, rounds: int) -> None:
        """Before anything decides by itself: consolidations under running streams, of the first model."""
        model = self._models[0]
        plain = self._plain[model.name]
        for number in range(1, rounds + 1):
            smoothness.measure(self._lab, plain.row, plain.spec, _body(model), self.gaps)
            before, during = (smoothness.percentile(gaps, 99) for gaps in (self.gaps.before, self.gaps.during))
            self.say(f"smoothness {number}/{rounds}, p99 between tokens: {before:.3f} s before, {during:.3f} s during")

    def measure_rows(self, rounds: int) -> None:
        """Every row of every model, once a round."""
        for number in range(1, rounds + 1):
            for model in self._models:
                for row in self._rows:
                    sample = self._measure(model, row, number)
                    self.samples.append(sample)
                    done = f"{sample.ttft_s:.2f} s, {sample.stage_count} stage(s)"
                    self.say(f"round {number}/{rounds}, {model.name}, {row}: {done}")
                    for line in table.parts(sample.stages):
                        print(line, flush=True)

    def _measure(self, model: BenchModel, row: str, number: int) -> Sample:
        plain, compressed = self._plain[model.name], self._compressed[model.name]
        match row:
            case "vllm" | "naive" | "prefetch":
                return naive_row.run(self._lab, model, PLAIN_NODE, row, number, _body(model))
            case "stream":
                return plain.run(row, number, [PLAIN_NODE], self._forced(plain, 1))
            case "warm":
                return plain.run(row, number, WARM_NODES, self._forced(plain, 1))
            case "pipeline-2" | "pipeline-4":
                return plain.run(row, number, WARM_NODES, self._forced(plain, int(row[-1])))
            case "compressed":
                return compressed.run(row, number, WARM_NODES, self._forced(compressed, MAX_STAGES))
            case "hydrant":
                return compressed.run(row, number, WARM_NODES, self._own_choice(model), keep=True)
            case "memory":
                return compressed.run_again(row, number, self._own_choice(model))
            case _:
                raise ValueError(f"there is no row {row!r}")

    def _forced(self, rows: HydrantRows, stages: int) -> Forced:
        return force(rows.spec, stages, int(self._lab.network.payload_mbit * 1e6 / 8))

    def _own_choice(self, model: BenchModel) -> Forced:
        """What the planner is told of a model: its service level, and the floors that this run has measured."""
        floors = {stages: median(self.floors[model.name, stages]) for stages in FLOOR_STAGES}
        profile = {
            "runtime_floor_ms": int(1000 * floors[1]),
            "per_stage_floor_ms": int(1000 * max(0.0, floors[MAX_STAGES] - floors[1]) / (MAX_STAGES - 1)),
            # The floors end with the first token, so they hold what comes after the fetch as well.
            "tail_ms": 400,
        }
        return free(model.slo_ttft_ms, MAX_STAGES, profile)

    def check_answers(self) -> None:
        """Every row must have answered the same, but for the one with another engine. Raises LabError."""
        for model in self._models:
            answers = {sample.text for sample in self.samples if sample.model == model.name and sample.row != "vllm"}
            if len(answers) > 1:
                raise LabError(f"{model.name}: the rows answered differently: {sorted(answers)}")


def _body(model: BenchModel) -> dict[str, Any]:
    return {"model": model.name, **BODY}


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m bench.coldstart", description="Cold starts, side by side.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each row is measured")
    parser.add_argument("--models", nargs="+", choices=[model.name for model in MODELS], help="default: all")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="default: all; memory needs hydrant before it")
    parser.add_argument("--out", type=Path, default=RESULTS / "coldstart", help="path without a suffix")
    options = parser.parse_args()
    models = [model for model in MODELS if options.models is None or model.name in options.models]
    rows = [row for row in ROWS if row in (options.rows or ROWS)]
    if "vllm" in rows and not naive_row.VLLM_PYTHON.exists():
        print("[bench] without the row vllm: bench/coldstart/install-vllm.sh has not made .venv-vllm", flush=True)
        rows.remove("vllm")
    for model in models:
        model.prepare()
    nodes = [*((name, True) for name in WARM_NODES), (PLAIN_NODE, False)]
    settings = [
        NodeSettings(name, core=index % 2, store_gb=3.5, ports=(31000 + 100 * index, 31099 + 100 * index), warm=warm)
        for index, (name, warm) in enumerate(nodes)
    ]
    print("[bench] making the lab: five nodes, a store, a client, the control plane", flush=True)
    try:
        lab = Lab(settings, MODELS_DIR, NODE_MBIT)
    except LabUnavailable as error:
        print(f"[bench] {error.reason}", flush=True)
        print("[bench] so no link is shaped here; instead each fetch is held to the rate of a link", flush=True)
        lab = Lab(settings, MODELS_DIR, NODE_MBIT, make=PacedNetwork)
    with lab:
        plane = ControlPlane(lab)
        try:
            run = Run(lab, plane, models, rows)
            run.measure_floors(min(3, options.rounds))
            run.measure_smoothness(options.rounds)
            plane.start()
            run.measure_rows(options.rounds)
        finally:
            plane.close()
    run.check_answers()
    report(run, options.out)
    return 0


def report(run: Run, out: Path) -> None:
    """Print and write what was measured."""
    rows = summary.summarize(run.samples, run.floors, LINK_BPS)
    promised = summary.targets(rows, run.samples, run.floors, run.gaps.ratio())
    for model in dict.fromkeys(row.model for row in rows):
        print(f"\n{model}, medians of {rows[0].rounds} rounds, {run.links}")
        print("\n".join(table.results(row for row in rows if row.model == model)))
    print("\nfork to first token, weights in memory, all hosts on the same two cores")
    print("\n".join(table.floors(run.floors)))
    print(f"\na warm runtime takes {median(run.warm_bytes) / 1e9:.2f} GB of a node's memory while nothing is forked")
    print("\n" + "\n".join(targets.lines(promised)))
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "link_mbit": NODE_MBIT,
            "links": run.links,
        },
        "warm_runtime_bytes": run.warm_bytes,
        "targets": [target.as_json() for target in promised],
        "rows": [row.as_json() for row in rows],
        "between_tokens_s": {"before": sorted(run.gaps.before), "during": sorted(run.gaps.during)},
        "floors": [{"model": m, "stages": s, "seconds": seconds} for (m, s), seconds in run.floors.items()],
        "samples": [sample.as_json() for sample in run.samples],
    }
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    plot.draw(rows, run.samples, out.with_suffix(".png"), f"Cold starts, {run.links}")
    print(f"\nwrote {out.with_suffix('.json')} and {out.with_suffix('.png')}")


if __name__ == "__main__":
    sys.exit(main())
