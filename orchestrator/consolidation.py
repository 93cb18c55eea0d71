"""Turning a pipeline into standalone workers while it serves: which are missing, which may start, what is to come."""

from collections.abc import Iterator
from dataclasses import replace

from orchestrator import deadlines, equal_share
from orchestrator.control import ControlState, Start
from orchestrator.groups import Cause, Groups, GroupView
from orchestrator.lifecycle import OVER, GroupState
from orchestrator.scaling import idle_since, retry_at
from orchestrator.types import ConsolidationMode, ConsolidationTarget, Fetch, NodeState, Plan, Sharing, StagePlan
from orchestrator.why import WhyCode

DRAIN_FIRST_AFTER_MS = 10_000
"""A pipeline whose worker needs its memory drains when its model has not been used for this long: it cannot serve
meanwhile, and a conversation pauses for longer than a moment."""
FIRST_TOKENS_MS = 1_000
"""What a new pipeline has for itself: the requests that waited for it are answered first, before its nodes start and
fetch once more. Beside a consolidation the first token of a 1.4 GB model on two cores came 0.5 s later."""
_STARTING = frozenset({GroupState.PLANNED, GroupState.STARTING})
_PIPELINES = frozenset({GroupState.PIPELINE, GroupState.CONSOLIDATING})


def targets(group: GroupView) -> list[ConsolidationTarget]:
    """Where standalone workers can grow while the pipeline serves; DRAIN_FIRST ones come after it."""
    if group.plan.consolidate is None:
        return []
    return [t for t in group.plan.consolidate.targets if t.mode is not ConsolidationMode.DRAIN_FIRST]


def heirs(state: ControlState, group: GroupView) -> list[GroupView]:
    """The standalone workers that grow, serve or drain in place of this pipeline."""
    return [other for other in state.groups.replacing(group.group_id) if other.state not in OVER]


def missing(state: ControlState, group: GroupView) -> list[ConsolidationTarget]:
    """Targets of the pipeline without an heir."""
    taken = {heir.plan.stages[0].node for heir in heirs(state, group)}
    return [target for target in targets(group) if target.node not in taken]


def kept(groups: Groups, group: GroupView) -> Iterator[tuple[str, int, int]]:
    """Node, device and bytes that a pipeline's plan keeps for each standalone worker that does not exist yet."""
    if group.plan.consolidate is None:
        return
    ends = group.state in OVER or (group.state is GroupState.DRAINING and not _drains_first(group))
    grown = {stage.node for other in groups.replacing(group.group_id) for stage in other.stages if stage.alive}
    there = {stage.node for stage in group.stages if stage.alive}
    for target in group.plan.consolidate.targets:
        # A stage that would have grown in place lies in that place, until it has stopped.
        in_place = target.mode is ConsolidationMode.IN_PLACE and target.node in there
        if target.node not in grown and (in_place or not ends):
            # A stage that is gone has given its own share back, and the worker that follows needs that too.
            yield target.node, target.device, target.reserved_bytes if target.node in there else target.memory_bytes


def may_drain_first(state: ControlState, group: GroupView) -> bool:
    """Whether the pipeline should drain now so that its standalone worker can have its memory."""
    model = state.models[group.model]
    if group.plan.consolidate is None or targets(group) or not state.gateways_known or group.ready_ms is None:
        return False
    unused_ms = state.now_ms - idle_since(group.ready_ms, model.last_request_ms)
    if group.running or model.waiting or unused_ms < DRAIN_FIRST_AFTER_MS:
        return False
    return any(_admitted(state, group, target) for target in group.plan.consolidate.targets)


def after_drain(state: ControlState, group: GroupView) -> list[Start]:
    """Starts of the standalone workers that follow a pipeline which drains first, each as if it were the only one.

    They are to come as soon as its processes are gone, and until then held requests wait for them.
    """
    if not _drains_first(group) or group.plan.consolidate is None:
        return []
    if state.dismissal(group) is not None or group.heir_failures:
        return []
    taken = {heir.plan.stages[0].node for heir in heirs(state, group)}
    missing = [target for target in group.plan.consolidate.targets if target.node not in taken]
    fetches = [(target, _admitted(state, group, target)) for target in missing]
    return [_start(state, group, target, fetch) for target, fetch in fetches if fetch is not None]


def _drains_first(group: GroupView) -> bool:
    """Whether the pipeline drains so that its standalone worker, which follows it, can have its memory."""
    return group.state is GroupState.DRAINING and group.why is not None and group.why.code is WhyCode.DRAINS_FIRST


def next_heir(state: ControlState, group: GroupView) -> Start | None:
    """The start of a missing standalone worker; None while there is none to start or nowhere to start one, and in the
    pipeline's first moment."""
    if group.ready_ms is None or state.now_ms - group.ready_ms < FIRST_TOKENS_MS:
        return None
    for target, fetch in _growable(state, group):
        return _start(state, group, target, fetch)
    return None


def _start(state: ControlState, group: GroupView, target: ConsolidationTarget, fetch: Fetch) -> Start:
    plan = _standalone(group, target, fetch)
    return Start(group.model, plan, Cause.CONSOLIDATION, group.group_id, state.models[group.model].version)


def workers_to_come(state: ControlState, model: str) -> int:
    """How many workers with all their slots free will come of what has begun.

    That includes those that replace a pipeline: what runs on it ends there, and takes none of their slots.
    """
    mine = state.groups.of(model)
    starting = [group for group in mine if group.state in _STARTING]
    pipelines = [group for group in mine if group.state in _PIPELINES]
    return (
        sum(max(1, len(targets(group))) for group in starting)
        + sum(len(list(_growable(state, group))) for group in pipelines)
        + sum(len(after_drain(state, group)) for group in mine)
    )


def workers_in_the_end(state: ControlState, model: str) -> int:
    """How many workers there will be when everything that has begun is complete and every pipeline is replaced."""
    mine = state.groups.of(model)
    pipelines = {group.group_id: group for group in mine if group.state in _PIPELINES}
    count = 0
    for group in mine:
        if group.group_id in pipelines:
            count += max(1, len(heirs(state, group)) + len(list(_growable(state, group))))
        elif group.state in _STARTING:
            count += 0 if group.parent_id in pipelines else max(1, len(targets(group)))
        elif group.state is GroupState.STANDALONE:
            count += group.parent_id not in pipelines
        elif group.state is GroupState.DRAINING:
            count += len(after_drain(state, group))
    return count


def _growable(state: ControlState, group: GroupView) -> Iterator[tuple[ConsolidationTarget, Fetch]]:
    """The missing standalone workers that can start now, each as if it were the only one.

    One that failed is tried again after the back-off, when its processes are gone; the pipeline serves meanwhile.
    """
    again = retry_at(group.heir_failures, group.heir_failed_ms)
    if again is not None and state.now_ms < again:
        return
    for target in missing(state, group):
        fetch = _admitted(state, group, target)
        if fetch is not None:
            yield target, fetch


def _admitted(state: ControlState, group: GroupView, target: ConsolidationTarget) -> Fetch | None:
    """The background fetch of a standalone worker, if its node can take both now."""
    node = state.nodes.get(target.node)
    if node is None or node.cordoned or node.name in state.lost or node.free_ports < 1:
        return None
    leaving = (
        stage.alive and stage.node == target.node
        for other in state.groups.replacing(group.group_id)
        if other.state in OVER
        for stage in other.stages
    )
    if any(leaving):
        return None
    deadline_ms = _in_the_background(state, node, target.fetch_bytes)
    return None if deadline_ms is None else Fetch(group.group_id, node.name, target.fetch_bytes, deadline_ms)


def _in_the_background(state: ControlState, node: NodeState, size_bytes: int) -> int | None:
    """The deadline of a fetch that nobody waits for and nobody may be late for; None when it cannot start now."""
    if state.sharing is Sharing.EQUALLY:
        return equal_share.background_deadline_ms(node.link_bps, node.fetches, size_bytes, state.now_ms)
    turn = deadlines.last(node.link_bps, node.fetches, size_bytes, state.now_ms, deadlines.BACKGROUND_SLACK)
    return None if turn is None else turn.deadline_ms


def _standalone(group: GroupView, target: ConsolidationTarget, fetch: Fetch) -> Plan:
    """The plan of the one worker that takes over from a pipeline on one of its own nodes."""
    stage = StagePlan(
        rank=0,
        node=target.node,
        device=target.device,
        first_layer=0,
        layer_count=sum(stage.layer_count for stage in group.plan.stages),
        reserved_bytes=target.memory_bytes,
        full=True,
        fetch_bytes=target.fetch_bytes,
        deadline_ms=fetch.deadline_ms,
        rate_bps=0,
    )
    return replace(group.plan, s=1, w=1, stages=(stage,), consolidate=None, candidates=(), reasons=())
