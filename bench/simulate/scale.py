"""How decisions and simulations grow: one plan on a large cluster, and an hour of clusters ten times as large."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from bench.simulate import cells, paper
from cli.cluster_file import models_of, read_models
from orchestrator.plan import plan
from orchestrator.simulator.cluster import Cluster
from orchestrator.simulator.simulation import Simulation
from orchestrator.types import ClusterState, DeviceState, Fetch, ModelSpec, NodeState, PlanRequest

GB = 10**9
PLANS = 300
DEVICES = 10_000
OF_THE_PAPER = 24
"""Devices of the paper's cluster, which has 16 models for each; here there are as many models as devices."""
RATE_PER_MODEL = 0.7 / 384
CV = 4
SEED = 7


@dataclass(frozen=True, slots=True)
class Hour:
    """One simulated hour."""

    devices: int
    models: int
    requests: int
    cold_starts: int
    seconds: float


def plan_times(seed: int = SEED) -> list[float]:
    """CPU seconds of each of PLANS plans on 2,500 servers of four devices, a tenth of whose links are busy.

    In a process of its own, as the controller's is: its full garbage collections leave out what was there at its start
    (`tasks/runtime.py`), and it keeps nothing of simulations.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_plan_times, seed).result()


def _plan_times(seed: int) -> list[float]:
    rng = random.Random(seed)
    models = [model.spec for model in cells.the_models(cells.SYSTEMS["hydrant"][1].style)[:: paper.REPLICAS]]
    gc.collect()
    gc.freeze()
    found = []
    for i in range(PLANS):
        if i % 20 == 0:
            nodes = tuple(_nodes(rng))
        request = PlanRequest(_named(models[i % len(models)], i), waited_ms=rng.randrange(3_000))
        cluster = ClusterState(nodes, 50_000)
        began = time.process_time()
        plan(request, cluster)
        found.append(time.process_time() - began)
    return found


def _named(spec: ModelSpec, number: int) -> ModelSpec:
    return replace(spec, name=f"{spec.name}-{number}")


def _nodes(rng: random.Random) -> Iterator[NodeState]:
    for i in range(DEVICES // 4):
        kind, size, link = ("A10", 22, 8 * GB) if i % 3 == 0 else ("V100", 32, 2 * GB)
        name = f"n{i:05d}"
        taken = (0, 0, 10, 18, size)
        devices = tuple(DeviceState(name, d, kind, size * GB, (size - rng.choice(taken)) * GB) for d in range(4))
        busy = rng.random() < 0.1
        deadline = 60_000 + rng.randrange(30_000)
        fetches = (Fetch(f"f{i}", name, rng.randrange(GB, 10 * GB), deadline),) if busy else ()
        yield NodeState(name, link, devices, fetches)


def hour(devices: int, traces: Path | None) -> Hour:
    """An hour of as many models as devices, on servers in the paper's proportions, under hydrant."""
    policy, engine = cells.SYSTEMS["hydrant"]
    paper_cluster = cells.the_cluster()
    factor = devices / OF_THE_PAPER
    cluster = Cluster(tuple(replace(one, count=round(one.count * factor)) for one in paper_cluster.servers))
    fields = read_models(cells.HERE / "models.toml")
    for model in fields.model:
        model.replicas = round(devices / len(fields.model))
    models = list(models_of(fields, cluster, engine.style, in_place=True))
    cell = cells.Cell(RATE_PER_MODEL * len(models), CV, SEED)
    simulation = Simulation(cluster, models, engine, policy, cells.workload(models, cell, traces, thinning=4))
    began = time.process_time()
    simulation.run()
    return Hour(
        devices=sum(server.count * server.devices for server in cluster.servers),
        models=len(models),
        requests=len(simulation.served),
        cold_starts=len(simulation.cold_starts),
        seconds=time.process_time() - began,
    )


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile, ms."""
    ordered = sorted(seconds)
    return 1000 * median(ordered), 1000 * ordered[(len(ordered) - 1) * 99 // 100]
