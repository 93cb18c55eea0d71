"""Ending an idle worker of one model to make room for another: only when it helps, and only the longest idle."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from orchestrator.consolidation import kept
from orchestrator.control import ControlState, GroupView, ModelView
from orchestrator.lifecycle import OVER, GroupState
from orchestrator.policies.policy import Policy
from orchestrator.scaling import idle_since, may_evict
from orchestrator.types import Plan, PlanRequest


def choose_victim(
    state: ControlState, policy: Policy, model: ModelView, spare: Iterable[GroupView], ending: Iterable[GroupView]
) -> GroupView | None:
    """The group to drain so that `model` fits; None when room is coming already or no idle group would give enough.

    spare   groups that their models can do without.
    ending  groups that this pass has told to drain.
    """
    leaving = [group for group in state.groups if group.state is GroupState.DRAINING or group.state in OVER]
    leaving += [group for group in ending if group not in leaving]
    if _fits(state, policy, model, leaving):
        return None
    idle = sorted(
        (group for group in spare if group not in leaving and _idle(state, model, group)),
        key=lambda group: (idle_since(group.ready_ms or 0, group.last_used_ms), group.group_id),
    )
    for group in idle:
        if _fits(state, policy, model, [*leaving, group]):
            return group
    return idle[0] if idle and _fits(state, policy, model, [*leaving, *idle]) else None


def _idle(state: ControlState, model: ModelView, group: GroupView) -> bool:
    other = state.models.get(group.model)
    if other is None or other is model or group.ready_ms is None:
        return False
    return may_evict(group.state, running=group.running)


def _fits(state: ControlState, policy: Policy, model: ModelView, gone: Iterable[GroupView]) -> bool:
    """Whether the model could be placed if the groups `gone` had given their memory back."""
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
    nodes = tuple(
        replace(
            node,
            devices=tuple(
                replace(
                    device, free_bytes=min(device.memory_bytes, device.free_bytes + freed[device.node, device.index])
                )
                for device in node.devices
            ),
        )
        for node in state.nodes
    )
    then = replace(state, nodes=nodes)
    return isinstance(policy.plan(PlanRequest(model=model.spec), then.cluster_for(model)), Plan)
