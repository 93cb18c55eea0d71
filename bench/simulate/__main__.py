"""`make simulate`: the paper's cold starts and its end-to-end test, simulated with the controller's own decisions."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from bench import targets
from bench.simulate import cells, exact, paper, plot, report, scale
from bench.simulate.fit import frozen, quality

OUT = Path(__file__).resolve().parents[1] / "results" / "simulate"
TRACES = Path(__file__).resolve().parents[3] / "shared" / "data"
DEVELOPMENT_SEEDS = (1, 2, 3)
LARGE = (984, 9_984)
"""Devices: 41 and 416 times the paper's 24."""
SEEDS = (101, 102, 103)
"""Of the reported tables; nothing was ever chosen by looking at these."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--development", action="store_true", help=f"seeds {DEVELOPMENT_SEEDS}, and write nothing")
    parser.add_argument("--systems", default=",".join(cells.SYSTEMS), help="only these, separated by commas")
    parser.add_argument("--large", action="store_true", help="also an hour of 1,000 and of 10,000 devices")
    parser.add_argument("--traces", type=Path, default=TRACES, help="where the Azure 2023 traces lie")
    options = parser.parse_args(arguments)
    systems = options.systems.split(",")
    unknown = sorted(set(systems) - set(cells.SYSTEMS))
    if unknown:
        parser.error(f"no such system: {', '.join(unknown)}; there are {', '.join(cells.SYSTEMS)}")
    began = time.monotonic()
    constants, fitted = frozen(), quality(frozen())
    print(f"Cold starts, first token in seconds: published / predicted (mean error {fitted.mean_error:.1%})")
    print("\n".join(report.cold_start_table(constants)), flush=True)
    seeds = DEVELOPMENT_SEEDS if options.development else SEEDS
    found = list(_simulate(systems, seeds, options.traces, began))
    outcomes = [outcome for outcome, _ in found]
    without = []
    if "hydrant" in systems:
        print("\nhydrant without one of its ideas each, first seed", flush=True)
        without = [outcome for outcome, _ in _simulate(list(cells.ABLATIONS), seeds[:1], options.traces, began)]
        whole = [one for one in outcomes if one.system == "hydrant" and one.cell.seed == seeds[0]]
        without = [*whole, *without]
    print("\nplanning on 10,000 devices", flush=True)
    plans = scale.percentiles(scale.plan_times())
    hours = []
    for devices in LARGE if options.large else ():
        print(f"[{time.monotonic() - began:5.0f} s] an hour of {devices} devices and as many models", flush=True)
        hours.append(scale.hour(devices, options.traces))
    promised = report.targets(fitted, outcomes, max(seconds for _, seconds in found))
    print(f"[{time.monotonic() - began:5.0f} s] small cases beside an exact solver", flush=True)
    solved = exact.compare(seeds[0])
    promised += [*report.scale_targets(plans, hours), *report.exact_targets(solved)]
    attained, used = report.attainment(outcomes), report.memory(outcomes)
    print(f"\nFirst tokens within the service level, percent, simulated / published; mean of seeds {seeds}")
    print("\n".join(report.cells_table(attained, published=True)))
    print(report.NO_TRACE)
    print("\nGPU memory times time, GB hours")
    print("\n".join(report.cells_table(used, published=False)))
    if without:
        print(f"\nWhat each idea brings, seed {seeds[0]}")
        print("\n".join(report.ablation_table(without)))
    print("\n" + "\n".join(targets.lines(promised)))
    if not options.development:
        document = {
            "note": report.NO_TRACE,
            "seeds": seeds,
            "zipf": cells.ZIPF,
            "thinning": cells.THINNING,
            "lengths": "traces" if options.traces.is_dir() else "quantiles",
            "constants": {kind: asdict(one) for kind, one in constants.items()},
            "cold_starts": {"mean_error": fitted.mean_error, "left_out_error": fitted.left_out_error},
            "plan_ms": dict(zip(("median", "p99"), plans, strict=True)),
            "hours": [asdict(one) for one in hours],
            "exact": asdict(solved),
            "targets": [target.as_json() for target in promised],
            "ablations": [asdict(outcome) for outcome in without],
            "outcomes": [{**asdict(outcome), "seconds": round(seconds, 2)} for outcome, seconds in found],
        }
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        plot.draw(attained, used, constants, OUT.with_suffix(".png"))
        print(f"\nwrote {OUT.with_suffix('.json')} and {OUT.with_suffix('.png')}")
    return 0


def _simulate(
    systems: Sequence[str], seeds: Sequence[int], traces: Path, began: float
) -> Iterator[tuple[cells.Outcome, float]]:
    jobs = [
        (system, cells.Cell(rate, cv, seed), traces)
        for seed in seeds
        for cv in paper.CVS
        for rate in paper.RATES
        for system in systems
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for i, (outcome, seconds) in enumerate(pool.map(_timed, jobs), 1):
            if i % len(systems) == 0:
                cell = outcome.cell
                print(
                    f"[{time.monotonic() - began:5.0f} s] {i}/{len(jobs)} runs; CV {cell.cv}, {cell.rate}/s,"
                    f" seed {cell.seed}, {outcome.models_asked_for} models asked for",
                    flush=True,
                )
            yield outcome, seconds


def _timed(job: tuple[str, cells.Cell, Path]) -> tuple[cells.Outcome, float]:
    began = time.process_time()
    outcome = cells.run(*job)
    return outcome, time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
