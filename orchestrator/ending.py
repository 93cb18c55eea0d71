"""Why a group ends: it is broken, unwanted, or idle and no longer needed."""

from typing import NamedTuple

from orchestrator.consolidation import targets
from orchestrator.control import ControlState, ModelView
from orchestrator.groups import GroupView, StageState, StageView
from orchestrator.lifecycle import SERVING, GroupState
from orchestrator.prewarming import is_awaited
from orchestrator.scaling import idle_since
from orchestrator.why import SlowStage, Why, WhyCode

DRAIN_WAIT_MS = 300_000
"""How long a node that is being emptied serves on for want of another: as long as a start may take."""


class Break(NamedTuple):
    """Why a group can no longer serve, and the nodes to blame."""

    why: Why
    nodes: frozenset[str]


def broken(state: ControlState, group: GroupView) -> Break | None:
    """Why the group can no longer serve; None while it can."""
    for stage in group.stages:
        if stage.state is StageState.FAILED:
            return _broken_at(stage, WhyCode.STAGE_FAILED, stage.reason)
        if stage.node in state.lost:
            return _broken_at(stage, WhyCode.NODE_LOST)
        if stage.state is StageState.GONE and group.state is not GroupState.DRAINING:
            return _broken_at(stage, WhyCode.STAGE_GONE, stage.reason)
    return _failed_start(state, group) if group.state is GroupState.STARTING else None


def _failed_start(state: ControlState, group: GroupView) -> Break | None:
    # A token passes all ranks: which of them did not let it through is not known.
    everywhere = frozenset(stage.node for stage in group.stages)
    if group.probe is not None and not group.probe.ok:
        return Break(Why(WhyCode.PROBE_FAILED, _error(group.probe.error)), everywhere)
    for stage in group.stages:
        if stage.state is StageState.PLANNED and stage.node in group.unheard:
            return _broken_at(stage, WhyCode.NODE_TAKES_NOTHING)
    if state.now_ms <= group.deadline_ms:
        return None
    slow = [stage for stage in group.stages if stage.state is not StageState.READY]
    facts = {"allowed_ms": group.deadline_ms - group.created_ms}
    why = Why(WhyCode.NOT_READY_IN_TIME, facts, tuple(_how_far(stage) for stage in slow))
    return Break(why, frozenset(stage.node for stage in slow) or everywhere)


def _broken_at(stage: StageView, code: WhyCode, error: str | None = None) -> Break:
    return Break(Why(code, {"rank": stage.rank, "node": stage.node, **_error(error)}), frozenset({stage.node}))


def _error(said: str | None) -> dict[str, str]:
    return {"error": said} if said else {}


def _how_far(stage: StageView) -> SlowStage:
    if stage.verified or not stage.bytes_to_fetch:
        return SlowStage(stage.rank, stage.node, stage.state.value)
    return SlowStage(stage.rank, stage.node, stage.state.value, stage.bytes_fetched, stage.bytes_to_fetch)


def unwanted(state: ControlState, group: GroupView) -> Why | None:
    """Why the group is to end whatever runs on it: people want it so. None while they do not."""
    dismissal = state.dismissal(group)
    if dismissal is not None:
        return dismissal
    emptied = next((stage.node for stage in group.stages if stage.node in state.draining), None)
    if emptied is None or _needed_here(state, group):
        return None
    return Why(WhyCode.NODE_EMPTIED, {"node": emptied})


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


def idle(state: ControlState, group: GroupView, *, plenty: bool = False) -> Why | None:
    """Why the group may end: it has been idle for its model's keep-alive, its model can do without it. None else.

    `plenty`: nobody needs its memory.
    """
    model = state.models[group.model]
    kept_ms = model.kept_in_plenty_ms if plenty else model.kept_ms
    if is_awaited(model, group, state.now_ms) or not unused_for(state, group, kept_ms):
        return None
    return Why(WhyCode.IDLE, {"idle_ms": idle_ms(state, group), "keep_alive_ms": kept_ms})


def idle_ms(state: ControlState, group: GroupView) -> int:
    """For how long a group that is ready has not been used."""
    return state.now_ms - idle_since(group.ready_ms or 0, group.last_used_ms)


def unused_for(state: ControlState, group: GroupView, kept_ms: int) -> bool:
    """Whether the group has been idle for so long, and the model can do without it.

    A group has a clock of its own, so that a worker from a busy hour leaves although others of its model go on. That
    clock only samples what runs; the last worker goes by the model's, which misses no request.
    """
    if not state.gateways_known or group.ready_ms is None or idle_ms(state, group) < kept_ms:
        return False
    model = state.models[group.model]
    unused = state.now_ms - idle_since(group.ready_ms, model.last_request_ms) >= kept_ms
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
        and state.dismissal(group) is None
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
