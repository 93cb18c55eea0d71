"""The simulation's results: tables beside the paper's, targets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean

from bench.simulate import paper
from bench.simulate.cells import ABLATIONS, SYSTEMS, Outcome
from bench.simulate.exact import Comparison
from bench.simulate.fit import Constants, Quality, predicted
from bench.simulate.scale import Hour
from bench.targets import Target, at_least, at_most
from cli.console import table

NO_TRACE = (
    "The paper's Azure Functions trace cannot be had; Gamma arrivals and a Zipf popularity stand for it"
    " (bench/simulate/cells.py)."
)
CellKey = tuple[int, float]
Means = Mapping[str, Mapping[CellKey, float]]


def attainment(outcomes: Iterable[Outcome]) -> Means:
    """By system and cell (CV, rate), the mean over seeds, percent."""
    return _means(outcomes, lambda outcome: outcome.attainment)


def memory(outcomes: Iterable[Outcome]) -> Means:
    """By system and cell, GPU memory times time in GB hours, the mean over seeds."""
    return _means(outcomes, lambda outcome: outcome.memory_gb_hours)


def _means(outcomes: Iterable[Outcome], value: Callable[[Outcome], float]) -> Means:
    found: dict[str, dict[CellKey, list[float]]] = {}
    for outcome in outcomes:
        key = (outcome.cell.cv, outcome.cell.rate)
        found.setdefault(outcome.system, {}).setdefault(key, []).append(value(outcome))
    return {system: {key: mean(values) for key, values in cells.items()} for system, cells in found.items()}


def cold_start_table(constants: Mapping[str, Constants]) -> list[str]:
    """The paper's Fig. 7: published and, after a slash, predicted."""
    rows = []
    for kind, published in paper.TTFT_S.items():
        for model, row in published.items():
            ours = predicted(constants[kind], paper.SIZES_GB[model])
            rows.append([kind, model, *(f"{said:.1f} / {found:.1f}" for said, found in zip(row, ours, strict=True))])
    return table(["GPU", "model", *paper.SYSTEMS], rows, right="0011111")


def cells_table(means: Means, *, published: bool) -> list[str]:
    """Systems by cells; with `published`, the paper's figure after a slash where there is one."""
    keys = [(cv, rate) for cv in paper.CVS for rate in paper.RATES]
    rows = []
    for system in SYSTEMS:
        cells = means.get(system, {})
        rows.append([system, *(_cell(system, key, cells.get(key), published) for key in keys)])
    return table(["", *(f"CV {cv} {rate}/s" for cv, rate in keys)], rows, right="0" + "1" * len(keys))


def _cell(system: str, key: CellKey, value: float | None, published: bool) -> str:
    if value is None:
        return "-"
    said = publish(system, key) if published else None
    return f"{value:.1f}" if said is None else f"{value:.1f} / {said:.1f}"


def ablation_table(outcomes: Sequence[Outcome]) -> list[str]:
    """What becomes of hydrant without one of its ideas each, over the cells that all rows have."""
    found, used = attainment(outcomes), memory(outcomes)
    rows = []
    for name in ("hydrant", *ABLATIONS):
        if name not in found:
            continue
        pairs, spent = _shared(found, "hydrant", name), _shared(used, "hydrant", name)
        lost = mean(theirs - ours for ours, theirs in pairs)
        ratio = sum(theirs for _, theirs in spent) / sum(ours for ours, _ in spent)
        rows.append([name, f"{mean(found[name].values()):.1f}", f"{lost:+.1f}", f"{ratio:.2f}"])
    return table(["hydrant with", "attainment %", "points", "GPU memory x time"], rows, right="0111")


def publish(system: str, key: CellKey) -> float | None:
    """The paper's figure for that cell."""
    row = paper.ATTAINMENT.get(system)
    return None if row is None else row[key[0]][paper.RATES.index(key[1])]


def targets(quality: Quality, outcomes: Sequence[Outcome], slowest_s: float | None) -> list[Target]:
    """What the issue promises, computed from this run."""
    found, used = attainment(outcomes), memory(outcomes)
    every = len(paper.CVS) * len(paper.RATES)
    return [
        at_most("cold starts: mean error of the 60 published figures", 15, 100 * quality.mean_error, " %"),
        at_most("cold starts: the same, each model and GPU left out", 20, 100 * quality.left_out_error, " %"),
        at_most("cold starts: published orders that are not kept", 0, len(quality.wrong_orders)),
        at_least("cells where serverless-vllm < serverlessllm < hydraserve", every, _in_order(found)),
        at_least("cells where hydraserve is within 10 points of the published", 7, _near(found)),
        at_least("cells where hydrant is ahead of hydraserve with cache", every, _ahead(found)),
        at_least("hydrant against hydraserve with cache, mean", 8, _mean_lead(found), " points"),
        at_most("GPU memory times time, hydrant / hydraserve with cache", 1, _memory_ratio(used)),
        at_most("an hour of 384 models on one core, slowest run", 30, slowest_s, " s"),
    ]


def scale_targets(plans_ms: tuple[float, float], hours: Sequence[Hour]) -> list[Target]:
    """How planning and simulating grow; hours that were not simulated are not met."""
    small, large = hours if len(hours) == 2 else (None, None)
    growth = None
    if small is not None and large is not None:
        growth = (large.seconds / large.requests) / (small.seconds / small.requests)
    return [
        at_most("plan() on 10,000 devices, median", 10, plans_ms[0], " ms"),
        at_most("plan() on 10,000 devices, 99 %", 50, plans_ms[1], " ms"),
        at_most("an hour of 10,000 devices and models", 15, None if large is None else large.seconds / 60, " min"),
        at_most("time a request, 10,000 devices / 1,000", 1.5, growth),
    ]


def exact_targets(solved: Comparison) -> list[Target]:
    """Our planner's memory over the least that would do, in small cases."""
    return [
        at_most("small cases, memory over an exact solver's, median", 1, solved.median),
        at_most("the same, largest", 1.1, solved.largest),
    ]


def _shared(found: Means, *systems: str) -> list[tuple[float, ...]]:
    """The systems' figures in each cell that all of them have."""
    if any(system not in found for system in systems):
        return []
    keys = set.intersection(*(set(found[system]) for system in systems))
    return [tuple(found[system][key] for system in systems) for key in sorted(keys)]


def _in_order(found: Means) -> float:
    return sum(a < b < c for a, b, c in _shared(found, "serverless-vllm", "serverlessllm", "hydraserve"))


def _near(found: Means) -> float:
    cells = found.get("hydraserve", {}).items()
    return sum(abs(value - (publish("hydraserve", key) or 0)) <= 10 for key, value in cells)


def _ahead(found: Means) -> float:
    return sum(theirs < ours for theirs, ours in _shared(found, "hydraserve cache", "hydrant"))


def _mean_lead(found: Means) -> float | None:
    leads = [ours - theirs for theirs, ours in _shared(found, "hydraserve cache", "hydrant")]
    return mean(leads) if leads else None


def _memory_ratio(used: Means) -> float | None:
    pairs = _shared(used, "hydraserve cache", "hydrant")
    return sum(ours for _, ours in pairs) / sum(theirs for theirs, _ in pairs) if pairs else None
