"""Our planner, one model after the other, beside an exact solver that sees them all: small cases, HiGHS by scipy.

The case: some models are to start at one moment on a small cluster with idle links, all with the same service level and
floor, in place as the paper's engine does. Our planner takes them in the order that it finds, each plan seeing what the
one before took; what would be late is not started. The solver may place the models that ours has started wherever they
fit and meet the service level. It minimizes device memory: at equal attainment, a start costs what it reserves.

Links are exact too: transfers that begin together, all with the same deadline, are in time if and only if their sum is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from statistics import median

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from orchestrator import memory
from orchestrator.partition import split
from orchestrator.plan import plan
from orchestrator.together import begun_on, in_turn
from orchestrator.types import (
    MAX_STAGES,
    ClusterState,
    DeviceState,
    ModelSpec,
    NodeState,
    Plan,
    PlanRequest,
    Profile,
)

GB = 10**9
NOW_MS = 1_000_000
TAIL_MS = FLOOR_MS = 1_000
CASES = 300


@dataclass(frozen=True, slots=True)
class Place:
    """One stage on one device: memory that is reserved there and bytes that come over its node's link."""

    node: str
    device: int
    reserved: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Over all cases in which ours starts something: what ours reserves over the least that would do."""

    cases: int
    median: float
    largest: float
    above_ten_percent: int


def compare(seed: int, cases: int = CASES) -> Comparison:
    """Random cases; the same seed gives the same ones."""
    rng = random.Random(seed)
    ratios = []
    for _ in range(cases):
        nodes, models = draw(rng)
        started = ours(nodes, models)
        if started:
            mine = sum(place.reserved for places in started.values() for place in places)
            ratios.append(mine / least(nodes, [model for model in models if model.name in started]))
    return Comparison(len(ratios), median(ratios), max(ratios), sum(ratio > 1.1 for ratio in ratios))


def draw(rng: random.Random) -> tuple[list[NodeState], list[ModelSpec]]:
    """Two to four nodes of one or two devices, two to four models."""
    nodes = []
    for i in range(rng.choice((2, 3, 4))):
        size = rng.choice((24, 32, 40)) * GB
        devices = tuple(
            DeviceState(f"n{i}", index, "gpu", size, rng.choice((size, size, size // 2)))
            for index in range(rng.choice((1, 2)))
        )
        nodes.append(NodeState(f"n{i}", rng.choice((1, 2, 4)) * GB, devices))
    slo_ms = rng.choice((6_000, 8_000, 10_000))
    models = [model(f"m{i}", rng.choice((8, 13, 16, 24)), slo_ms) for i in range(rng.choice((2, 3, 4)))]
    return nodes, models


def model(name: str, size_gb: int, slo_ms: int, layers: int = 16) -> ModelSpec:
    """A model of equal layers that grows in place."""
    return ModelSpec(
        name=name,
        layer_bytes=(size_gb * GB // layers,) * layers,
        embed_bytes=0,
        head_bytes=0,
        tied=False,
        kv_bytes_per_token=0,
        kv_reserve_bytes=4 * GB,
        slo_ttft_ms=slo_ms,
        slo_tpot_ms=None,
        profile=Profile(tail_ms=TAIL_MS, runtime_floor_ms=FLOOR_MS),
        in_place=True,
    )


def ours(nodes: Sequence[NodeState], models: Sequence[ModelSpec]) -> dict[str, list[Place]]:
    """What our planner starts in time, as the controller would: in the order that suits all, one after the other."""
    cluster = ClusterState(tuple(nodes), NOW_MS)
    begun: list[Plan] = []
    left = len(models)
    for i in in_turn([(PlanRequest(one), cluster) for one in models], plan):
        outcome = plan(PlanRequest(models[i], frugal=left > 1), begun_on(cluster, begun))
        if isinstance(outcome, Plan) and not outcome.degraded:
            begun.append(outcome)
            left -= 1
    return {one.model: list(_places(one)) for one in begun}


def _places(outcome: Plan) -> Iterator[Place]:
    targets = outcome.consolidate.targets if outcome.consolidate else ()
    whole = {target.rank: target.reserved_bytes for target in targets}
    for stage in outcome.stages:
        reserved = stage.reserved_bytes + whole.get(stage.rank, 0)
        yield Place(stage.node, stage.device, reserved, stage.fetch_bytes)


def ways(one: ModelSpec, nodes: Sequence[NodeState]) -> Iterator[list[Place]]:
    """Every way to start the model alone on these nodes within its service level, with one whole worker."""
    budget_ms = one.slo_ttft_ms - TAIL_MS - 1
    for s in range(1, min(MAX_STAGES, len(nodes)) + 1):
        parts = split(one, s)
        needs = [memory.full_bytes(one, "gpu"), *(memory.stage_bytes(one, part, "gpu") for part in parts[1:])]
        for chosen in permutations(nodes, s):
            if any(
                part.size_bytes * 1000 > node.link_bps * budget_ms for part, node in zip(parts, chosen, strict=True)
            ):
                continue
            for devices in product(*(node.devices for node in chosen)):
                if all(device.free_bytes >= need for device, need in zip(devices, needs, strict=True)):
                    yield [
                        Place(device.node, device.index, need, part.size_bytes)
                        for device, need, part in zip(devices, needs, parts, strict=True)
                    ]


def least(nodes: Sequence[NodeState], models: Sequence[ModelSpec]) -> int:
    """The least device memory with which all of these models start in time together. ValueError when they cannot."""
    columns = [(one, places) for one in models for places in ways(one, nodes)]
    rows, limits = [], []
    for node in nodes:
        for device in node.devices:
            here = [
                sum(p.reserved for p in places if (p.node, p.device) == (node.name, device.index))
                for _, places in columns
            ]
            rows.append(here)
            limits.append(device.free_bytes)
        rows.append([sum(p.nbytes for p in places if p.node == node.name) for _, places in columns])
        limits.append(node.link_bps * (models[0].slo_ttft_ms - TAIL_MS) // 1000)
    once = [[float(one is other) for other, _ in columns] for one in models]
    cost = np.array([sum(place.reserved for place in places) for _, places in columns]) / GB
    found = milp(
        cost,
        constraints=[
            LinearConstraint(np.array(rows) / GB, -np.inf, np.array(limits) / GB + 1e-9),
            LinearConstraint(np.array(once), 1, 1),
        ],
        integrality=np.ones(len(columns)),
        bounds=Bounds(0, 1),
    )
    if found.x is None:
        raise ValueError(f"the solver cannot place {[one.name for one in models]}: {found.message}")
    return sum(
        place.reserved for taken, (_, places) in zip(found.x, columns, strict=True) if taken > 0.5 for place in places
    )
