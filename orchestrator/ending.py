"""Why a group ends: it is broken, unwanted, or idle and no longer needed."""

from typing import NamedTuple

from orchestrator.consolidation import targets
from orchestrator.control import ControlState, GroupView, ModelView, StageState, StageView
from orchestrator.lifecycle import SERVING, GroupState
from orchestrator.prewarming import is_awaited
from orchestrator.scaling import idle_since

DRAIN_WAIT_MS = 300_000
"""How long a node that is being emptied serves on for want of another: as long as a start may take."""


class Break(NamedTuple):
    """Why a group can no longer serve, in words for a person, and the nodes to blame."""

    reason: str
    nodes: frozenset[str]


def broken(state: ControlState, group: GroupView) -> Break | None:
    """Why the group can no longer serve; None while it can."""
    for stage in group.stages:
        where, node = f"stage {stage.rank} on {stage.node}", frozenset({stage.node})
        if stage.state is StageState.FAILED:
            return Break(f"{where}: {stage.reason or 'failed without giving a reason'}", node)
        if stage.node in state.lost:
            return Break(f"{where}: the node has stopped reporting; check that its noded and node worker run", node)
        if stage.state is StageState.GONE and group.state is not GroupState.DRAINING:
            return Break(f"{where}: {stage.reason or 'its processes ended'}", node)
    return _failed_start(state, group) if group.state is GroupState.STARTING else None


def _failed_start(state: ControlState, group: GroupView) -> Break | None:
    # A token passes all ranks: which of them did not let it through is not known.
    everywhere = frozenset(stage.node for stage in group.stages)
    if group.probe is not None and not group.probe.ok:
        why = group.probe.error or "the probe gave no reason"
        return Break(f"no token came out of the group: {why}", everywhere)
    for stage in group.stages:
        if stage.state is StageState.PLANNED and stage.node in group.unheard:
            where = f"stage {stage.rank} on {stage.node}"
            words = f"the node worker of {stage.node} reports but takes no work; restart it"
            return Break(f"{where}: {words}", frozenset({stage.node}))
    if state.now_ms <= group.deadline_ms:
        return None
    slow = [stage for stage in group.stages if stage.state is not StageState.READY]
    words = ", ".join(_how_far(stage) for stage in slow)
    nodes = frozenset(stage.node for stage in slow) or everywhere
    return Break(f"not ready in time: {words or 'no token came'}", nodes)


def _how_far(stage: StageView) -> str:
    words = f"stage {stage.rank} on {stage.node} is {stage.state}"
    if stage.verified or not stage.bytes_to_fetch:
        return words
    return f"{words}, with {stage.bytes_fetched / 1e6:.1f} of {stage.bytes_to_fetch / 1e6:.1f} MB fetched"


def unwanted(state: ControlState, group: GroupView) -> bool:
    """Whether the group is to end whatever runs on it: people want it so."""
    return state.is_dismissed(group) or (on_draining_node(state, group) and not _needed_here(state, group))


def on_draining_node(state: ControlState, group: GroupView) -> bool:
    """Whether an operator wants a node emptied on which the group has a stage."""
    return any(stage.node in state.draining for stage in group.stages)


def _needed_here(state: ControlState, group: GroupView) -> bool:
    """Whether a group that serves on a node that is being emptied serves on until the model does elsewhere.

    Not longer than DRAIN_WAIT_MS: where no other node can take it, the drain must end all the same.
    """
    model = state.models[group.model]
    began_ms = min(state.draining[stage.node] for stage in group.stages if stage.node in state.draining)
    if group.state not in SERVING or state.now_ms - began_ms >= DRAIN_WAIT_MS:
        return False
    elsewhere = [
        other
        for other in state.groups.of(group.model)
        if other.state in SERVING and not on_draining_node(state, other) and broken(state, other) is None
    ]
    return len(elsewhere) < max(_kept(state, model), 1 if model.waiting or model.running else 0)


def _kept(state: ControlState, model: ModelView) -> int:
    """How many workers of the model are to be there without any request."""
    warm = model.warm_until_ms is not None and state.now_ms < model.warm_until_ms
    return max(model.min_replicas, 1 if warm else 0)


def is_idle(state: ControlState, group: GroupView) -> bool:
    """Whether the group has been idle for its model's keep-alive, and the model can do without it.

    A group has a clock of its own, so that a worker from a busy hour leaves although others of its model go on. That
    clock only samples what runs; the last worker goes by the model's, which misses no request.
    """
    model = state.models[group.model]
    if not state.gateways_known or group.ready_ms is None or is_awaited(model, group, state.now_ms):
        return False
    if state.now_ms - idle_since(group.ready_ms, group.last_used_ms) < model.kept_ms:
        return False
    unused = state.now_ms - idle_since(group.ready_ms, model.last_request_ms) >= model.kept_ms
    return group in spare(state, model, at_least=0 if unused else 1)


def spare(state: ControlState, model: ModelView, *, at_least: int = 0) -> list[GroupView]:
    """Groups with nothing on them that may all end: pipelines first, then the one that was used longest ago.

    What stays is as much as is kept of the model (`at_least`, min_replicas, warm) and has room for all that runs and
    waits. A pipeline that is being replaced is no such room: it will end itself.
    """
    serving = [
        group
        for group in state.groups.of(model.spec.name)
        if group.state in SERVING
        and broken(state, group) is None
        and not state.is_dismissed(group)
        and not on_draining_node(state, group)
    ]
    serving.sort(key=lambda group: (group.state is GroupState.STANDALONE, _used(group), group.group_id))
    may_go = len(serving) - max(at_least, _kept(state, model))
    load = model.waiting + max(model.running, sum(group.running for group in serving))
    room = sum(_lasting_slots(model, group) for group in serving)
    found: list[GroupView] = []
    for group in serving:
        left = room - _lasting_slots(model, group)
        if group.running == 0 and len(found) < may_go and load <= left:
            found.append(group)
            room = left
    return found


def _used(group: GroupView) -> tuple[int, int]:
    return idle_since(group.ready_ms or 0, group.last_used_ms), group.created_ms


def _lasting_slots(model: ModelView, group: GroupView) -> int:
    return model.spec.capacity if group.state is GroupState.STANDALONE or not targets(group) else 0
