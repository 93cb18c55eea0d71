"""What should happen next, given everything known: the controller's one decision function.

It is level-triggered: it looks at the whole state, never at the message that woke it, so a lost message costs time and
a doubled one changes nothing. The controller applies what it returns and asks again until nothing changes; at most
one group is started in a pass, so that each plan sees the memory and links that the one before it took.
"""

from collections.abc import Iterable, Iterator

from orchestrator.consolidation import heirs, missing, next_heir, targets, workers_in_the_end, workers_to_come
from orchestrator.control import (
    Cause,
    ControlState,
    Decision,
    GroupView,
    ModelView,
    Move,
    Probe,
    StageState,
    Start,
    Stop,
    Wait,
)
from orchestrator.eviction import choose_victim
from orchestrator.lifecycle import OVER, SERVING, GroupState
from orchestrator.plan import plan
from orchestrator.scaling import idle_since, instances_needed, retry_at
from orchestrator.types import NoPlan, NoPlanReason, Plan, PlanRequest

PROBE_TIMEOUT_MS = 15_000
"""A probe without an answer is asked again after this."""


def reconcile(state: ControlState) -> list[Decision]:
    """The decisions for now; an empty list means that nothing needs to change."""
    decisions: list[Decision] = []
    for group in state.groups:
        for decision in _follow(state, group):
            if not (isinstance(decision, Start) and _starts(decisions)):
                decisions.append(decision)
    if not _starts(decisions):
        decisions += _start_one(state, _ending(state, decisions))
    return decisions


def _starts(decisions: Iterable[Decision]) -> bool:
    return any(isinstance(decision, Start) for decision in decisions)


def _ending(state: ControlState, decisions: Iterable[Decision]) -> list[GroupView]:
    """The groups that these decisions end."""
    ids = {d.group_id for d in decisions if isinstance(d, Move) and d.to in (*OVER, GroupState.DRAINING)}
    return [group for group in state.groups if group.group_id in ids]


# --- groups that exist ------------------------------------------------------------------------------------------------


def _follow(state: ControlState, group: GroupView) -> Iterator[Decision]:
    if group.state in OVER:
        if not group.stopping and any(_alive(state, group)):
            yield Stop(group.group_id)
        return
    broken = _broken(state, group)
    if broken is not None:
        over = group.state is GroupState.DRAINING
        yield Move(group.group_id, group.version, GroupState.STOPPED if over else GroupState.FAILED, broken)
        return
    if group.state is GroupState.DRAINING:
        yield from _follow_draining(state, group)
        return
    if _unwanted(state, group):
        yield Move(group.group_id, group.version, GroupState.DRAINING, "no longer wanted")
    elif group.state is GroupState.PLANNED:
        yield Move(group.group_id, group.version, GroupState.STARTING)
    elif group.state is GroupState.STARTING:
        yield from _follow_starting(state, group)
    elif group.state is GroupState.PIPELINE and targets(group):
        yield Move(group.group_id, group.version, GroupState.CONSOLIDATING)
    elif group.state is GroupState.CONSOLIDATING:
        yield from _follow_consolidating(state, group)
    else:
        yield from _end_idle(state, group)


def _alive(state: ControlState, group: GroupView) -> Iterator[str]:
    for stage in group.stages:
        if stage.alive and stage.node not in state.lost:
            yield stage.stage_id


def _broken(state: ControlState, group: GroupView) -> str | None:
    """Why the group can no longer serve, in words for a person."""
    for stage in group.stages:
        where = f"stage {stage.rank} on {stage.node}"
        if stage.state is StageState.FAILED:
            return f"{where}: {stage.reason or 'failed without giving a reason'}"
        if stage.node in state.lost:
            return f"{where}: the node has stopped reporting; check that its noded and node worker run"
        if stage.state is StageState.GONE and group.state is not GroupState.DRAINING:
            return f"{where}: {stage.reason or 'its processes ended'}"
    if group.state is GroupState.STARTING:
        if group.probe is not None and group.probe.ok is False:
            return f"no token came out of the group: {group.probe.error or 'the probe gave no reason'}"
        for stage in group.stages:
            if stage.state is StageState.PLANNED and stage.node in group.unheard:
                return (
                    f"stage {stage.rank} on {stage.node}: the node worker of {stage.node} reports but takes no work;"
                    " restart it"
                )
        if state.now_ms > group.deadline_ms:
            slow = ", ".join(
                f"stage {s.rank} on {s.node} is {s.state}" for s in group.stages if s.state is not StageState.READY
            )
            return f"not ready in time: {slow or 'the probe was not answered'}"
    return None


def _unwanted(state: ControlState, group: GroupView) -> bool:
    model = state.models.get(group.model)
    if model is None or not model.enabled:
        return True
    if model.stop_requested_ms is not None and group.created_ms <= model.stop_requested_ms:
        return True
    return any(stage.node in state.draining for stage in group.stages)


def _follow_starting(state: ControlState, group: GroupView) -> Iterator[Decision]:
    if not all(stage.state is StageState.READY and stage.verified for stage in group.stages):
        return
    if group.probe is not None and group.probe.ok:
        yield Move(
            group.group_id, group.version, GroupState.PIPELINE if len(group.stages) > 1 else GroupState.STANDALONE
        )
    elif group.probe is None or state.now_ms - group.probe.sent_at_ms > PROBE_TIMEOUT_MS:
        yield Probe(group.group_id, group.stages[0].node)


def _follow_draining(state: ControlState, group: GroupView) -> Iterator[Decision]:
    if not any(_alive(state, group)):
        yield Move(group.group_id, group.version, GroupState.STOPPED)
    elif group.stopping:
        return
    elif _unrouted(state, group) and group.running == 0:
        yield Stop(group.group_id)


def _unrouted(state: ControlState, group: GroupView) -> bool:
    """Whether no gateway can still choose the group: each has seen routes without it."""
    if group.drain_version is None or not state.gateways_known:
        return False
    return state.routes_version is None or state.routes_version >= group.drain_version


def _end_idle(state: ControlState, group: GroupView) -> Iterator[Decision]:
    model = state.models[group.model]
    if not state.gateways_known or model.waiting or model.running or group.running or group.ready_ms is None:
        return
    if state.now_ms - idle_since(group.ready_ms, model.last_request_ms) < model.keep_alive_ms:
        return
    if group in _spare(state, model):
        yield Move(group.group_id, group.version, GroupState.DRAINING, "idle past its keep-alive")


def _spare(state: ControlState, model: ModelView) -> list[GroupView]:
    """Groups that may end without the model falling below what is kept of it: pipelines first, then the oldest."""
    serving = [
        group
        for group in state.groups
        if group.model == model.spec.name
        and group.state in SERVING
        and _broken(state, group) is None
        and not _unwanted(state, group)
    ]
    serving.sort(key=lambda group: (group.state is GroupState.STANDALONE, group.created_ms, group.group_id))
    warm = model.warm_until_ms is not None and state.now_ms < model.warm_until_ms
    kept = max(model.min_replicas, 1 if warm else 0)
    return serving[: max(0, len(serving) - kept)]


# --- consolidation ----------------------------------------------------------------------------------------------------


def _follow_consolidating(state: ControlState, group: GroupView) -> Iterator[Decision]:
    grown = heirs(state, group)
    if grown and not missing(state, group):
        if all(heir.state is GroupState.STANDALONE for heir in grown):
            yield Move(group.group_id, group.version, GroupState.DRAINING, "replaced by its standalone worker")
        return
    ending = [] if grown else list(_end_idle(state, group))
    start = next_heir(state, group)
    if ending:
        yield from ending
    elif start is not None:
        yield start


# --- groups that are wanted -------------------------------------------------------------------------------------------


def _start_one(state: ControlState, ending: list[GroupView]) -> Iterator[Decision]:
    """At most one Start, for the model whose request has waited longest; models that cannot start get a Wait."""
    wanting = sorted(
        (model for model in state.models.values() if model.enabled),
        key=lambda model: (model.oldest_waiting_ms is None, model.oldest_waiting_ms or 0, model.spec.name),
    )
    for model in wanting:
        wanted = _wanted(state, model)
        if wanted is None:
            continue
        cause, instances = wanted
        again = retry_at(model.failures, model.failed_ms)
        if again is not None and state.now_ms < again:
            yield Wait(model.spec.name, None, again)
            continue
        outcome = _plan(state, model, instances)
        if isinstance(outcome, Plan):
            yield Start(model.spec.name, outcome, cause, version=model.version)
            return
        room = _make_room(state, model, outcome, ending)
        if room is not None:
            yield room
            ending = [*ending, *_ending(state, [room])]
        retry_ms = None if outcome.retry_after_ms is None else state.now_ms + outcome.retry_after_ms
        yield Wait(model.spec.name, outcome, retry_ms, cause, _waited_ms(state, model))


def _wanted(state: ControlState, model: ModelView) -> tuple[Cause, int] | None:
    """Why and how many more workers of this model are wanted; None when none is."""
    serving = [group for group in state.groups if group.model == model.spec.name and group.state in SERVING]
    needed = instances_needed(
        waiting=model.waiting,
        running=sum(group.running for group in serving),
        capacity=model.spec.capacity,
        serving=len(serving),
        starting=workers_to_come(state, model.spec.name),
    )
    if needed:
        return Cause.DEMAND, needed
    there = workers_in_the_end(state, model.spec.name)
    if there < model.min_replicas:
        return Cause.MIN_REPLICAS, model.min_replicas - there
    if model.warm_until_ms is not None and state.now_ms < model.warm_until_ms and not there:
        return Cause.WARM, 1
    return None


def _plan(state: ControlState, model: ModelView, instances: int) -> Plan | NoPlan:
    request = PlanRequest(model=model.spec, instances=instances, waited_ms=_waited_ms(state, model))
    if model.failures and model.avoid:
        elsewhere = plan(request, state.cluster_for(model, without=model.avoid))
        if isinstance(elsewhere, Plan):
            return elsewhere
    return plan(request, state.cluster_for(model))


def _waited_ms(state: ControlState, model: ModelView) -> int:
    return 0 if model.oldest_waiting_ms is None else max(0, state.now_ms - model.oldest_waiting_ms)


def _make_room(state: ControlState, model: ModelView, outcome: NoPlan, ending: Iterable[GroupView]) -> Move | None:
    """Drain the longest idle worker of another model, when memory is what is missing."""
    if outcome.reason is not NoPlanReason.NO_MEMORY or not state.gateways_known:
        return None
    spare = [group for other in state.models.values() for group in _spare(state, other)]
    victim = choose_victim(state, model, spare, ending)
    if victim is None:
        return None
    return Move(victim.group_id, victim.version, GroupState.DRAINING, f"makes room for {model.spec.name}")
