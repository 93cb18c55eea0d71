"""States for the controller's decision, in a line each: models, groups, stages, nodes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from support.clusters import GB, NOW, a_model, a_node

from orchestrator.control import ControlState, ModelView
from orchestrator.groups import Cause, Groups, GroupView, ProbeView, StageState, StageView
from orchestrator.lifecycle import GroupState
from orchestrator.nodes import Nodes
from orchestrator.types import (
    ConsolidationMode,
    ConsolidationPlan,
    ConsolidationTarget,
    ModelSpec,
    NodeState,
    Plan,
    StagePlan,
)

SMALL = a_model(1, layers=4, kv_reserve_bytes=GB, slo_ttft_ms=60_000, capacity=4)
"""Fits any node and meets its service level on one: planned as a single worker."""


def model(name: str = "m", spec: ModelSpec = SMALL, **changes: Any) -> ModelView:
    """An enabled model that nobody asks for."""
    return ModelView(spec=replace(spec, name=name), **changes)


def waiting(name: str = "m", count: int = 1, **changes: Any) -> ModelView:
    """A model for which `count` requests have been held for a second."""
    return model(name, **{"waiting": count, "oldest_waiting_ms": NOW - 1000} | changes)


def stage(
    rank: int = 0, node: str = "n0", state: StageState = StageState.READY, *, verified: bool = True, reason: Any = None
) -> StageView:
    """One rank; ready and verified unless told otherwise."""
    return StageView(f"stg_{node}_{rank}", rank, node, state, verified, reason)


def a_plan(nodes: Iterable[str] = ("n0",), targets: Iterable[str] = (), *, name: str = "m", **changes: Any) -> Plan:
    """A plan with one stage of SMALL on each of `nodes`, to be consolidated on each of `targets`."""
    names = list(nodes)
    share = SMALL.layers // len(names)
    size = SMALL.weights_bytes + SMALL.kv_reserve_bytes
    wanted = list(targets)
    stages = tuple(
        StagePlan(rank, node, 0, rank * share, share, size // len(names), node in wanted, GB, NOW + 10_000, 0)
        for rank, node in enumerate(names)
    )
    consolidate = ConsolidationPlan(
        tuple(
            ConsolidationTarget(names.index(node), node, 0, ConsolidationMode.BESIDE_STAGE, size, size, GB)
            for node in wanted
        )
    )
    plan = Plan(
        name, len(names), max(1, len(wanted)), stages, 2500, None, False, consolidate if wanted else None, (), ()
    )
    return replace(plan, **changes)


def drain_first(node: str, rank: int = 1) -> ConsolidationPlan:
    """One standalone worker, on a device that holds it only after the pipeline's stage there has stopped."""
    size = SMALL.weights_bytes + SMALL.kv_reserve_bytes
    target = ConsolidationTarget(rank, node, 0, ConsolidationMode.DRAIN_FIRST, size, size - size // 2, GB)
    return ConsolidationPlan((target,))


def group(state: GroupState, *stages: StageView, targets: Iterable[str] = (), **changes: Any) -> GroupView:
    """A group of model "m", created ten seconds ago; one that serves became ready five seconds ago."""
    ranks = stages or (stage(),)
    served = state not in (GroupState.PLANNED, GroupState.STARTING, GroupState.FAILED)
    values: dict[str, Any] = {
        "group_id": "grp_1",
        "model": "m",
        "version": 3,
        "cause": Cause.DEMAND,
        "plan": a_plan([one.node for one in ranks], targets),
        "created_ms": NOW - 10_000,
        "ready_ms": NOW - 5000 if served else None,
        "deadline_ms": NOW + 60_000,
    }
    return GroupView(state=state, stages=tuple(ranks), **(values | changes))


def heir(state: GroupState, *stages: StageView, parent: str = "grp_1", **changes: Any) -> GroupView:
    """The standalone worker that grows to replace the pipeline `parent`."""
    return group(state, *stages, **{"group_id": "grp_2", "parent_id": parent, "cause": Cause.CONSOLIDATION} | changes)


def probed(ok: bool = True, *, error: str | None = None) -> ProbeView:
    """What came of the probe."""
    return ProbeView(ok, error)


def state(
    *groups: GroupView,
    models: Iterable[ModelView] = (),
    nodes: Iterable[NodeState] | None = None,
    **changes: Any,
) -> ControlState:
    """Model "m" (unless `models` has one), three equal nodes, and gateways that have seen routes version 100."""
    known: Mapping[str, ModelView] = {view.spec.name: view for view in models}
    values: dict[str, Any] = {"now_ms": NOW, "routes_version": 100}
    return ControlState(
        nodes=Nodes(a_node(f"n{i}") for i in range(3)) if nodes is None else Nodes(nodes),
        models=known if "m" in known else {"m": model(), **known},
        groups=Groups(groups),
        **(values | changes),
    )
