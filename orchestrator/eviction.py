"""Ending an idle worker of one model to make room for another: only when it helps, and the one that is missed least."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.consolidation import kept
from orchestrator.control import ControlState, ModelView
from orchestrator.groups import GroupView
from orchestrator.keep_alive import missed
from orchestrator.lifecycle import OVER, GroupState
from orchestrator.nodes import Nodes
from orchestrator.policies.policy import Policy
from orchestrator.scaling import idle_since, may_evict
from orchestrator.types import NodeState, NoPlan, Plan, PlanRequest

TRIED = 32
"""How many idle workers are tried one by one, each with a plan of its own."""
UNUSED_MS = 10_000
"""A worker that was used within this time goes for no other's service level, only so that another can start at all: two
models that are asked for in turn would else never be warm."""
SOON_MS = 30_000
"""A worker that is likely to be asked for within this time is the last to go."""


@dataclass(frozen=True, slots=True)
class Room:
    """How a better start can be had: a group to drain for it, or, with None, what is leaving already.

    plan  what could be started then.
    """

    victim: GroupView | None
    plan: Plan


def find_room(
    state: ControlState,
    policy: Policy,
    model: ModelView,
    request: PlanRequest,
    outcome: Plan | NoPlan,
    spare: Iterable[GroupView],
    ending: Iterable[GroupView],
) -> Room | None:
    """What to do so that the model, for which there is `outcome` now, starts at all, or within its service level.

    None when neither what is leaving nor any idle group would give enough.

    spare   groups that their models can do without.
    ending  groups that this pass has told to drain.
    """
    degraded = isinstance(outcome, Plan)
    leaving = [group for group in state.groups if group.state is GroupState.DRAINING or group.state in OVER]
    # What still runs may take long to leave: worth waiting for to start at all, not to start sooner.
    leaving = [group for group in leaving if not (degraded and group.running)]
    leaving += [group for group in ending if group not in leaving]
    if leaving and (then := _then(state, policy, model, request, leaving, degraded=degraded)):
        return Room(None, then)
    unused_ms = UNUSED_MS if degraded else 0
    idle = sorted(
        (group for group in spare if group not in leaving and _idle(state, model, group, unused_ms)),
        key=lambda group: _order(state, group),
    )
    every = _then(state, policy, model, request, [*leaving, *idle], degraded=degraded) if idle else None
    if every is None:
        return None
    for group in idle[:TRIED]:
        if then := _then(state, policy, model, request, [*leaving, group], degraded=degraded):
            return Room(group, then)
    return Room(idle[0], every)


def _order(state: ControlState, group: GroupView) -> tuple[float, int, str]:
    """The order in which idle groups go: least likely to be asked for soon, then longest unused."""
    model = state.models[group.model]
    since = idle_since(group.ready_ms or 0, group.last_used_ms)
    # A worker that was started before its request was not used yet: the pause goes on from the one before it.
    unused_ms = state.now_ms - (since if model.last_request_ms is None else model.last_request_ms)
    return missed(model.pauses_ms, unused_ms, SOON_MS), since, group.group_id


def _idle(state: ControlState, model: ModelView, group: GroupView, unused_ms: int) -> bool:
    other = state.models.get(group.model)
    if other is None or other is model or group.ready_ms is None:
        return False
    if state.now_ms - idle_since(group.ready_ms, group.last_used_ms) < unused_ms:
        return False
    return may_evict(group.state, running=group.running)


def _then(
    state: ControlState,
    policy: Policy,
    model: ModelView,
    request: PlanRequest,
    gone: Iterable[GroupView],
    *,
    degraded: bool,
) -> Plan | None:
    """The plan that there would be without `gone`; one that is not degraded, if there is such a one already."""
    freed: Counter[tuple[str, int]] = Counter()
    for group in gone:
        claims = {(name, device): size for name, device, size in kept(state.groups, group)}
        stays = group.state is GroupState.DRAINING
        for stage in group.stages:
            part = group.plan.stages[stage.rank]
            # What a pipeline that drains first gives back, the worker that follows it takes.
            if stage.alive and not (stays and (part.node, part.device) in claims):
                freed[part.node, part.device] += part.reserved_bytes
        if not stays:
            freed.update(claims)
    touched = {name for name, _ in freed}
    nodes = Nodes(_with_more(node, freed) if node.name in touched else node for node in state.nodes)
    then = replace(state, nodes=nodes)
    outcome = policy.plan(request, then.cluster_for(model))
    return outcome if isinstance(outcome, Plan) and not (degraded and outcome.degraded) else None


def _with_more(node: NodeState, freed: Mapping[tuple[str, int], int]) -> NodeState:
    """The node with so much more memory free, by its name and device."""
    devices = (
        replace(one, free_bytes=min(one.memory_bytes, one.free_bytes + freed.get((node.name, one.index), 0)))
        for one in node.devices
    )
    return replace(node, devices=tuple(devices))
