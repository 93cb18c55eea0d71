"""The paper's end-to-end test in simulation: a cell is a rate and a burstiness, run under each system."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from bench.simulate import paper
from bench.simulate.fit import frozen
from bench.simulate.lengths import lengths
from cli.cluster_file import cluster_of, models_of, read_cluster, read_models
from orchestrator.plan import plan
from orchestrator.policies import HYDRANT, POLICIES, MakesRoom, Policy
from orchestrator.simulator.cluster import Cluster
from orchestrator.simulator.host_cache import Keeps
from orchestrator.simulator.simulation import ENGINES, Engine, SimModel, Simulation
from orchestrator.simulator.startup import Style
from orchestrator.simulator.workload import Request, requests, zipf
from orchestrator.types import Sharing

HERE = Path(__file__).parent
SECONDS = 3_600
ZIPF = 1.3
THINNING = 64
"""The paper's trace cannot be had: the Azure Functions trace of 2021, made burstier, of which so many were drawn.
These two numbers stand for it: how unequal models are asked for, and of how many times as many requests those that
count were drawn. They were chosen on the development seeds, by the attainment of the three published systems."""
SYSTEMS: dict[str, tuple[Policy, Engine]] = {
    "serverless-vllm": (POLICIES["serverless-vllm"], ENGINES["serverless-vllm"]),
    "serverlessllm": (POLICIES["serverlessllm"], ENGINES["serverlessllm"]),
    "hydraserve": (POLICIES["hydraserve"], Engine(Style.OVERLAPPED, Keeps.NOTHING)),
    "hydraserve cache": (POLICIES["hydraserve"], ENGINES["hydraserve"]),
    "hydrant": (HYDRANT, ENGINES["hydrant"]),
}

_ALL = ENGINES["hydrant"]
ABLATIONS: dict[str, tuple[Policy, Engine]] = {
    "no room made for a service level": (replace(HYDRANT, makes_room=MakesRoom.TO_START), _ALL),
    "no room made at all": (replace(HYDRANT, makes_room=MakesRoom.NEVER), _ALL),
    "keep-alive as set": (replace(HYDRANT, learns=False), _ALL),
    "idle memory without a bound": (replace(HYDRANT, idle_percent=100), _ALL),
    "nobody expected": (replace(HYDRANT, prewarms=False), _ALL),
    "links shared equally": (HYDRANT, replace(_ALL, sharing=Sharing.EQUALLY)),
    "only whole models kept in host memory": (HYDRANT, replace(_ALL, keeps=Keeps.WHOLE_MODELS)),
    "nothing kept in host memory": (HYDRANT, replace(_ALL, keeps=Keeps.NOTHING)),
    "no pipelines": (replace(HYDRANT, plan=partial(plan, max_stages=1)), _ALL),
}
"""Hydrant without one of its ideas each."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is asked of a system."""

    rate: float
    cv: int
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one system did in one cell; attainment in percent, by application too."""

    system: str
    cell: Cell
    attainment: float
    by_app: Mapping[str, float]
    memory_gb_hours: float
    cold_starts: int
    cold_share: float
    models_asked_for: int


def run(system: str, cell: Cell, traces: Path | None) -> Outcome:
    """Simulate an hour."""
    policy, engine = (SYSTEMS | ABLATIONS)[system]
    models = the_models(engine.style)
    simulation = Simulation(the_cluster(), models, engine, policy, workload(models, cell, traces))
    simulation.run()
    slo = {model.spec.name: (model.label, model.spec.slo_ttft_ms) for model in models}
    met: dict[str, list[bool]] = {app.name: [] for app in paper.APPS}
    for one in simulation.served:
        label, limit = slo[one.request.model]
        met[label].append(one.ttft_ms is not None and one.ttft_ms <= limit)
    return Outcome(
        system=system,
        cell=cell,
        attainment=percent([ok for each in met.values() for ok in each]),
        by_app={app: percent(each) for app, each in met.items()},
        memory_gb_hours=simulation.world.memory_byte_ms / 1e9 / 3.6e6,
        cold_starts=len(simulation.cold_starts),
        cold_share=percent([one.cold for one in simulation.served]),
        models_asked_for=len({one.request.model for one in simulation.served}),
    )


def percent(met: Sequence[bool]) -> float:
    """Share of true ones."""
    return 100 * sum(met) / len(met) if met else 100.0


@cache
def the_cluster() -> Cluster:
    """The paper's, with the constants that were fitted to its cold starts."""
    constants = frozen()
    return cluster_of(
        read_cluster(HERE / "cluster.toml"),
        {kind: one.times for kind, one in constants.items()},
        {kind: one.link_efficiency for kind, one in constants.items()},
    )


@cache
def the_models(style: Style) -> tuple[SimModel, ...]:
    """The paper's 384, for engines that start in that style and merge in place, as the paper's do."""
    return tuple(models_of(read_models(HERE / "models.toml"), the_cluster(), style, in_place=True))


def workload(models: Sequence[SimModel], cell: Cell, traces: Path | None, thinning: int = THINNING) -> list[Request]:
    """The hour's requests; which models are popular is drawn with the seed."""
    rng = random.Random(f"{cell.seed}/popularity")
    shares: dict[str, float] = {}
    for app in paper.APPS:
        names = [model.spec.name for model in models if model.label == app.name]
        rng.shuffle(names)
        shares |= {name: app.share * part for name, part in zip(names, zipf(len(names), ZIPF), strict=True)}
    drawn = lengths(traces, paper.MAX_TOKENS)
    by_model = {model.spec.name: drawn[model.label] for model in models}
    return requests(shares, by_model, rate=cell.rate, cv=cell.cv, seconds=SECONDS, seed=cell.seed, thinning=thinning)
