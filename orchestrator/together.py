"""Several models that are to start at one moment: the order in which most are in time, and which takes least memory.

Planned one after the other, each takes what suits it best, and a small model may take the fast link without which a
larger one must be split, or is late. Few are looked at together, so all orders can be tried.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from orchestrator.types import ClusterState, Fetch, NodeState, NoPlan, Plan, PlanRequest

MOST = 4
"""How many are looked at together: four have 64 beginnings of an order, each a plan to make."""
MANY_NODES = 100
"""In a larger cluster a plan takes milliseconds, and there is hardly ever one link that all need."""
Planner = Callable[[PlanRequest, ClusterState], Plan | NoPlan]


def in_turn(wanted: Sequence[tuple[PlanRequest, ClusterState]], plan: Planner) -> list[int]:
    """Positions of `wanted` (each with the cluster as its model sees it) in the order in which they should be planned.

    Those that can be in time come first, in the order that has most of them, then takes least device memory, then keeps
    the given order; the others follow in the given order.
    """
    best: tuple[int, int, tuple[int, ...]] | None = None

    def extend(order: tuple[int, ...], begun: tuple[Plan, ...]) -> None:
        nonlocal best
        cost = (-len(order), sum(reserved_bytes(one) for one in begun), order)
        if best is None or cost < best:
            best = cost
        rest = [i for i in range(len(wanted)) if i not in order]
        for i in rest:
            request, cluster = wanted[i]
            outcome = plan(replace(request, frugal=len(rest) > 1), begun_on(cluster, begun))
            if isinstance(outcome, Plan) and not outcome.degraded:
                extend((*order, i), (*begun, outcome))

    extend((), ())
    assert best is not None
    return [*best[2], *(i for i in range(len(wanted)) if i not in best[2])]


def reserved_bytes(plan: Plan) -> int:
    """Device memory that the plan takes, its workers to come included."""
    return sum(size for _, _, size in _claims(plan))


def begun_on(cluster: ClusterState, plans: Sequence[Plan]) -> ClusterState:
    """The cluster when these plans have just begun: their memory is taken, and their fetches are under way."""
    touched = {stage.node for plan in plans for stage in plan.stages}
    if not touched:
        return cluster
    nodes = tuple(_begun_there(node, plans) if node.name in touched else node for node in cluster.nodes)
    return replace(cluster, nodes=nodes)


def _begun_there(node: NodeState, plans: Sequence[Plan]) -> NodeState:
    claims = [(device, size) for plan in plans for name, device, size in _claims(plan) if name == node.name]
    fetches = (
        Fetch(f"{plan.model}/{stage.rank}", node.name, stage.fetch_bytes, stage.deadline_ms)
        for plan in plans
        for stage in plan.stages
        if stage.node == node.name and stage.fetch_bytes
    )
    devices = tuple(
        replace(one, free_bytes=max(0, one.free_bytes - sum(size for device, size in claims if device == one.index)))
        for one in node.devices
    )
    return replace(node, devices=devices, fetches=(*node.fetches, *fetches))


def _claims(plan: Plan) -> Iterable[tuple[str, int, int]]:
    """(node, device, bytes) of every stage, and of every worker to come."""
    for stage in plan.stages:
        yield stage.node, stage.device, stage.reserved_bytes
    for target in plan.consolidate.targets if plan.consolidate else ():
        yield target.node, target.device, target.reserved_bytes
