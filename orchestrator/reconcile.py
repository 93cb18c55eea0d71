"""What should happen next, given everything known: the controller's one decision function.

It is level-triggered: it looks at the whole state, never at the message that woke it, so a lost message costs time and
a doubled one changes nothing. The controller applies what it returns and asks again until nothing changes; at most
one group is started in a pass, so that each plan sees the memory and links that the one before it took.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from orchestrator.consolidation import (
    after_drain,
    heirs,
    may_drain_first,
    missing,
    next_heir,
    targets,
    workers_in_the_end,
    workers_to_come,
)
from orchestrator.control import ControlState, Decision, ModelView, Move, Start, Stop, Wait
from orchestrator.ending import broken, idle, on_draining_node, spare, unwanted
from orchestrator.eviction import Room, find_room
from orchestrator.groups import Cause, Groups, GroupView, StageState
from orchestrator.idle_memory import admits, is_plenty, over_budget
from orchestrator.lifecycle import OVER, SERVING, GroupState
from orchestrator.plan import RETRY_MS
from orchestrator.policies.policy import HYDRANT, MakesRoom, Policy
from orchestrator.prewarming import is_near
from orchestrator.scaling import instances_needed, retry_at
from orchestrator.together import MANY_NODES, MOST, in_turn
from orchestrator.types import NoPlan, NoPlanReason, Plan, PlanRequest
from orchestrator.why import Why, WhyCode

TOGETHER_MS = 1_000
"""Requests that came within this time of each other came together."""
LEAVES_MS = 2_000
"""What a worker that is unused takes to end and to give its memory back, about."""
_Wanted = tuple[ModelView, Cause, int]
"""A model, why more workers of it are wanted, and how many."""


def reconcile(state: ControlState, policy: Policy = HYDRANT, models: Collection[str] | None = None) -> list[Decision]:
    """The decisions for now; an empty list means that nothing needs to change.

    With `models` only these and their groups are looked at, in the same way: for whoever knows what has changed.
    """
    decisions: list[Decision] = []
    plenty = is_plenty(state, policy)
    groups = state.groups if models is None else [group for name in models for group in state.groups.of(name)]
    for group in groups:
        for decision in _follow(state, group, plenty=plenty):
            if not (isinstance(decision, Start) and _starts(decisions)):
                decisions.append(decision)
    moved = {decision.group_id for decision in decisions if isinstance(decision, Move)}
    decisions += [
        _drain(group, why) for group, why in over_budget(state, policy, models) if group.group_id not in moved
    ]
    if not _starts(decisions):
        decisions += _start_one(state, policy, models, _ending(state, decisions))
    return decisions


def _starts(decisions: Iterable[Decision]) -> bool:
    return any(isinstance(decision, Start) for decision in decisions)


def _ending(state: ControlState, decisions: Iterable[Decision]) -> list[GroupView]:
    """The groups that these decisions end."""
    ids = {d.group_id for d in decisions if isinstance(d, Move) and d.to in (*OVER, GroupState.DRAINING)}
    return [group for group in state.groups if group.group_id in ids]


# --- groups that exist ------------------------------------------------------------------------------------------------


def _follow(state: ControlState, group: GroupView, *, plenty: bool) -> Iterator[Decision]:
    if group.state in OVER:
        if not group.stopping and any(_alive(state, group)):
            yield Stop(group.group_id)
        return
    trouble = broken(state, group)
    if trouble is not None and trouble.why.code is WhyCode.STAGE_GONE and group.state in SERVING:
        # It has served until its node was stopped; only a start that ends so has failed.
        yield _drain(group, trouble.why)
        return
    if trouble is not None:
        over = group.state is GroupState.DRAINING
        to = GroupState.STOPPED if over else GroupState.FAILED
        yield Move(group.group_id, group.version, to, trouble.why, trouble.nodes)
        return
    if group.state is GroupState.DRAINING:
        yield from _follow_draining(state, group)
        return
    if (why := unwanted(state, group)) is not None:
        yield _drain(group, why)
    elif group.state is GroupState.PLANNED:
        yield Move(group.group_id, group.version, GroupState.STARTING)
    elif group.state is GroupState.STARTING:
        yield from _follow_starting(group)
    elif group.state is GroupState.PIPELINE and targets(group):
        yield Move(group.group_id, group.version, GroupState.CONSOLIDATING)
    elif group.state is GroupState.CONSOLIDATING:
        yield from _follow_consolidating(state, group, plenty=plenty)
    elif (why := idle(state, group, plenty=plenty)) is not None:
        yield _drain(group, why)
    elif may_drain_first(state, group):
        yield _drain(group, Why(WhyCode.DRAINS_FIRST))


def _alive(state: ControlState, group: GroupView) -> Iterator[str]:
    for stage in group.stages:
        if stage.alive and stage.node not in state.lost:
            yield stage.stage_id


def _follow_starting(group: GroupView) -> Iterator[Decision]:
    ready = all(stage.state is StageState.READY and stage.verified for stage in group.stages)
    if ready and group.probe is not None and group.probe.ok:
        to = GroupState.PIPELINE if len(group.stages) > 1 else GroupState.STANDALONE
        yield Move(group.group_id, group.version, to)


def _follow_draining(state: ControlState, group: GroupView) -> Iterator[Decision]:
    if not any(_alive(state, group)):
        followers = after_drain(state, group)
        # It is over only when the worker that follows exists: until then it keeps the memory for it.
        yield followers[0] if followers else Move(group.group_id, group.version, GroupState.STOPPED)
    elif group.stopping:
        return
    elif any(stage.state is StageState.GONE for stage in group.stages):
        yield Stop(group.group_id)  # without that stage nothing that runs on it can end well
    elif _unrouted(state, group) and group.running == 0:
        # A gateway that is cut off from Redis may still stream from it.
        yield Stop(group.group_id, quiet=state.routes_version is not None)


def _unrouted(state: ControlState, group: GroupView) -> bool:
    """Whether no gateway can still choose the group: each has seen routes without it."""
    if group.drain_version is None or not state.gateways_known:
        return False
    return state.routes_version is None or state.routes_version >= group.drain_version


def _drain(group: GroupView, why: Why) -> Move:
    return Move(group.group_id, group.version, GroupState.DRAINING, why)


# --- consolidation ----------------------------------------------------------------------------------------------------


def _follow_consolidating(state: ControlState, group: GroupView, *, plenty: bool) -> Iterator[Decision]:
    grown = heirs(state, group)
    if grown and not missing(state, group):
        if all(heir.state is GroupState.STANDALONE for heir in grown):
            yield _drain(group, Why(WhyCode.REPLACED))
        return
    if (why := idle(state, group, plenty=plenty)) is not None:
        # Its last worker to come decides when it ends; no more are started for a model that nobody uses.
        if not grown:
            yield _drain(group, why)
        return
    start = next_heir(state, group)
    if start is not None:
        yield start


# --- groups that are wanted -------------------------------------------------------------------------------------------


def _start_one(
    state: ControlState, policy: Policy, models: Collection[str] | None, ending: list[GroupView]
) -> Iterator[Decision]:
    """At most one Start, for the model whose request is due first; models that cannot start get a Wait.

    Where none of them starts, one that is only expected may.
    """
    asked = state.models.values() if models is None else [state.models[name] for name in models if name in state.models]
    enabled = [model for model in asked if model.enabled]
    # Sorted when it is known who wants anything: of thousands of models, few do.
    wants = sorted(
        ((model, *wanted) for model in enabled if (wanted := _wanted(state, model)) is not None),
        key=lambda want: (*urgency(want[0], policy), want[0].spec.name),
    )
    for model, cause, instances in _in_turn(state, policy, wants):
        again = retry_at(model.failures, model.failed_ms)
        if again is not None and state.now_ms < again:
            yield Wait(model.spec.name, None, again)
            continue
        request = replace(model.request(state.now_ms, instances), frugal=policy.together and len(wants) > 1)
        outcome = _plan(state, policy, model, request)
        room = _find_room(state, policy, model, request, outcome, ending)
        if isinstance(outcome, Plan) and room is None:
            yield Start(model.spec.name, outcome, cause, version=model.version)
            return
        if room is not None and room.victim is not None:
            move = _drain(room.victim, Why(WhyCode.MAKES_ROOM, {"model": model.spec.name}))
            yield move
            ending = [*ending, *_ending(state, [move])]
        why = outcome if isinstance(outcome, NoPlan) else None
        retry_ms = None if why is None or why.retry_after_ms is None else state.now_ms + why.retry_after_ms
        eta_ms = None if room is None else state.now_ms + LEAVES_MS + room.plan.predicted_ttft_ms - room.plan.waited_ms
        yield Wait(model.spec.name, why, retry_ms, cause, request.waited_ms, eta_ms)
    if policy.prewarms:
        asked_for = {model.spec.name for model, _, _ in wants}
        near = (model for model in enabled if is_near(model, state.now_ms) and model.spec.name not in asked_for)
        yield from _prewarm_one(state, policy, sorted(near, key=lambda model: model.spec.name))


def _prewarm_one(state: ControlState, policy: Policy, models: Iterable[ModelView]) -> Iterator[Decision]:
    """At most one Start, of a single worker, that will be ready just before its model is expected; of `models`, for
    which it is time to think of that.

    It has time, so it takes one node and memory that nobody has, or that others hold beyond their keep-alives and with
    less to be expected of it; and what failed before is left to whoever asks for it.
    """
    for model in models:
        if model.expected_ms is None or model.failures or workers_in_the_end(state, model.spec.name):
            continue
        alone = replace(model.spec, max_stages=1)
        outcome = policy.plan(PlanRequest(alone, instances=1), state.cluster_for(model))
        at_ms = state.now_ms + RETRY_MS
        if isinstance(outcome, Plan):
            at_ms = model.expected_ms[0] - outcome.predicted_ttft_ms
            if at_ms <= state.now_ms and not admits(state, policy, model, outcome):
                at_ms = state.now_ms + RETRY_MS
            if at_ms <= state.now_ms:
                yield Start(model.spec.name, outcome, Cause.PREWARM, version=model.version)
                return
        yield Wait(model.spec.name, None, at_ms, Cause.PREWARM)


def _in_turn(state: ControlState, policy: Policy, wants: list[_Wanted]) -> list[_Wanted]:
    """Who is planned first: whose requests are due first, but of those that came together, as suits all best.

    Nobody is passed over for ever: whoever comes later is due later, but for models of a tighter service level.
    """
    if not policy.together or len(wants) < 2 or len(state.nodes) > MANY_NODES:
        return wants
    since_ms = wants[0][0].oldest_waiting_ms
    came = [
        one
        for one in wants
        if since_ms is not None
        and one[0].oldest_waiting_ms is not None
        and abs(one[0].oldest_waiting_ms - since_ms) <= TOGETHER_MS
        and one[0].failed_ms is None
    ][:MOST]
    if len(came) < 2:
        return wants
    order = in_turn([(m.request(state.now_ms, n), state.cluster_for(m)) for m, _, n in came], policy.plan)
    return [*(came[i] for i in order), *(one for one in wants if one not in came)]


def urgency(model: ModelView, policy: Policy) -> tuple[bool, int]:
    """What models are started by: whose request is due first, or, by a policy that looks at no deadlines, has waited
    longest; then those for which nobody waits."""
    at_ms = model.due_ms if policy.by_due else model.oldest_waiting_ms
    return at_ms is None, at_ms or 0


def _wanted(state: ControlState, model: ModelView) -> tuple[Cause, int] | None:
    """Why and how many more workers of this model are wanted; None when none is."""
    serving = [group for group in state.groups.of(model.spec.name) if group.state in SERVING]
    needed = instances_needed(
        waiting=model.waiting,
        running=sum(group.running for group in serving),
        capacity=model.spec.capacity,
        serving=len(serving),
        starting=workers_to_come(state, model.spec.name),
    )
    if needed:
        return Cause.DEMAND, needed
    # What serves on a node that is being emptied must be replaced, and serves on until it is.
    there = workers_in_the_end(_staying(state, model.spec.name), model.spec.name)
    if there < model.min_replicas:
        return Cause.MIN_REPLICAS, model.min_replicas - there
    if model.warm_until_ms is not None and state.now_ms < model.warm_until_ms and not there:
        return Cause.WARM, 1
    leaving = any(on_draining_node(state, group) for group in serving)
    if leaving and not there and (model.waiting or model.running):
        return Cause.DEMAND, 1
    return None


def _staying(state: ControlState, model: str) -> ControlState:
    """The state without those groups of the model that are on a node that is being emptied."""
    if not state.draining:
        return state
    groups = (group for group in state.groups.of(model) if not on_draining_node(state, group))
    return replace(state, groups=Groups(groups))


def _plan(state: ControlState, policy: Policy, model: ModelView, request: PlanRequest) -> Plan | NoPlan:
    if model.failures and model.avoid:
        elsewhere = policy.plan(request, state.cluster_for(model, without=model.avoid))
        if isinstance(elsewhere, Plan):
            return elsewhere
    return policy.plan(request, state.cluster_for(model))


def _find_room(
    state: ControlState,
    policy: Policy,
    model: ModelView,
    request: PlanRequest,
    outcome: Plan | NoPlan,
    ending: Iterable[GroupView],
) -> Room | None:
    """How to have memory for a start, or for one within the service level; None when there is no way, or no need."""
    if policy.makes_room is MakesRoom.NEVER or not state.gateways_known:
        return None
    if isinstance(outcome, NoPlan) and outcome.reason is not NoPlanReason.NO_MEMORY:
        return None
    late = isinstance(outcome, Plan) and outcome.degraded and model.waiting
    if isinstance(outcome, Plan) and not (late and policy.makes_room is MakesRoom.TO_MEET_SLO):
        return None
    others = (state.models[name] for name in state.groups.models() if name in state.models)
    may_go = [group for other in others for group in spare(state, other)]
    return find_room(state, policy, model, request, outcome, may_go, ending)
