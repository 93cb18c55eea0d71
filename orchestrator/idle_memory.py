"""A bounded share of device memory for workers that are idle beyond the keep-alive that people have set.

Learned keep-alives and expected models keep workers for longer than anybody has asked for. All of these together may
hold so much memory; where it is short, those stay that save most waiting for each byte and second.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from orchestrator.consolidation import heirs, kept
from orchestrator.control import ControlState, ModelView
from orchestrator.ending import idle, idle_ms, unused_for
from orchestrator.groups import Cause, GroupView
from orchestrator.keep_alive import returns_per_ms
from orchestrator.lifecycle import SERVING, GroupState
from orchestrator.policies.policy import Policy
from orchestrator.scaling import idle_since
from orchestrator.types import Plan
from orchestrator.why import Why, WhyCode


class Lingering(NamedTuple):
    """A worker that is there beyond its set keep-alive, or for a request that is only expected.

    size_bytes  device memory that it holds.
    benefit     ms of waiting that it is likely to save, for each byte and ms.
    since_ms    when it was used last, or became ready.
    """

    group_id: str
    size_bytes: int
    benefit: float
    since_ms: int


def budget_bytes(state: ControlState, policy: Policy) -> int:
    """How much device memory such workers may hold, all together."""
    return state.nodes.memory_bytes * policy.idle_percent // 100


def is_plenty(state: ControlState, policy: Policy) -> bool:
    """Whether all that is reserved, busy or idle, is no more than the budget: then nobody is short of memory."""
    return state.nodes.reserved_bytes <= budget_bytes(state, policy)


def held_bytes(state: ControlState) -> int:
    """How much they hold, with those that are being started for a request that is only expected."""
    return sum(one.size_bytes for one in _every_lingering(state)) + _coming_bytes(state)


def over_budget(
    state: ControlState, policy: Policy, models: Collection[str] | None = None
) -> Iterator[tuple[GroupView, Why]]:
    """The workers for which the budget has no room, and why they must go.

    With `models` only when one of these has such a worker; then all are weighed. What is being started stays.
    """
    if is_plenty(state, policy) or not _concerns(state, models):
        return
    budget = budget_bytes(state, policy)
    for one in _too_much(_every_lingering(state), budget - _coming_bytes(state)):
        group = state.groups[one.group_id]
        facts = {
            "idle_ms": idle_ms(state, group),
            "set_ms": state.models[group.model].keep_alive_ms,
            "held_bytes": one.size_bytes,
            "budget_bytes": budget,
        }
        yield group, Why(WhyCode.IDLE_BUDGET, facts)


def admits(state: ControlState, policy: Policy, model: ModelView, plan: Plan) -> bool:
    """Whether a worker for a request that is only expected would be among those that stay."""
    size_bytes = sum(stage.reserved_bytes for stage in plan.stages)
    unused_ms = state.now_ms - (model.last_request_ms or 0)
    new = Lingering("", size_bytes, _benefit(model, unused_ms, plan, size_bytes), state.now_ms)
    return new not in _too_much([*_every_lingering(state), new], budget_bytes(state, policy) - _coming_bytes(state))


def _too_much(lingering: Collection[Lingering], budget: int) -> list[Lingering]:
    """Those that find no room when all of more benefit, or as much and used later, have had theirs."""
    left, found = budget, []
    for one in sorted(lingering, key=lambda one: (-one.benefit, -one.since_ms, one.group_id)):
        if one.size_bytes <= left:
            left -= one.size_bytes
        else:
            found.append(one)
    return found


def _concerns(state: ControlState, models: Collection[str] | None) -> bool:
    if models is None:
        return True
    groups = (group for name in models for group in state.groups.of(name))
    return any(_is_lingering(state, group) or _is_coming(state, group) for group in groups)


def _every_lingering(state: ControlState) -> list[Lingering]:
    return [one for name in state.groups.models() for one in _lingering_of(state, name)]


def _lingering_of(state: ControlState, name: str) -> Iterator[Lingering]:
    mine = [group for group in state.groups.of(name) if _is_lingering(state, group)]
    if not mine:
        return
    model = state.models[name]
    last = max(mine, key=lambda group: (_since(group), group.group_id))
    others = any(group.state in SERVING and group not in mine for group in state.groups.of(name))
    for group in mine:
        size_bytes = sum(group.plan.stages[stage.rank].reserved_bytes for stage in group.stages if stage.alive)
        size_bytes += sum(size for _, _, size in kept(state.groups, group))
        # Of several workers the next request needs one.
        benefit = 0.0
        if group is last and not others:
            # A worker that was started before its request was not used yet: the pause goes on from before it.
            unused_ms = state.now_ms - (model.last_request_ms or _since(group))
            benefit = _benefit(model, unused_ms, group.plan, size_bytes)
        yield Lingering(group.group_id, size_bytes, benefit, _since(group))


def _benefit(model: ModelView, unused_ms: int, plan: Plan, size_bytes: int) -> float:
    start_ms = plan.predicted_ttft_ms - plan.waited_ms
    return returns_per_ms(model.pauses_ms, unused_ms) * start_ms / max(1, size_bytes)


def _is_lingering(state: ControlState, group: GroupView) -> bool:
    """Whether it could have ended by the keep-alive that was set, and has not by the one that was learned."""
    if group.state not in SERVING or group.running or group.model not in state.models:
        return False
    if group.state is GroupState.CONSOLIDATING and heirs(state, group):
        return False  # it ends when its worker has come
    unasked = group.cause is Cause.PREWARM and group.last_used_ms is None
    set_ms = 0 if unasked else state.models[group.model].keep_alive_ms
    return unused_for(state, group, set_ms) and idle(state, group) is None


def _is_coming(state: ControlState, group: GroupView) -> bool:
    """Whether it is being started for a request that is only expected."""
    if group.cause is not Cause.PREWARM or group.state not in (GroupState.PLANNED, GroupState.STARTING):
        return False
    model = state.models.get(group.model)
    return model is None or not (model.waiting or model.running)


def _coming_bytes(state: ControlState) -> int:
    coming = (group for group in state.groups if _is_coming(state, group))
    return sum(part.reserved_bytes for group in coming for part in group.plan.stages)


def _since(group: GroupView) -> int:
    return idle_since(group.ready_ms or 0, group.last_used_ms)
