"""Writes decisions to SQL: desired state by compare-and-swap, and an outbox row for each effect, in one transaction."""

import secrets
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import structlog
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from orchestrator.control import Decision, Move, Start, Stop, Wait
from orchestrator.explain import why_text
from orchestrator.groups import Cause
from orchestrator.lifecycle import OVER, SERVING, GroupState, move
from orchestrator.types import Plan, Profile
from registry.ids import new_id
from registry.models import ColdStart, ColdStartEvent, Group, Model, Node, Outbox, Stage
from registry.ops.group_costs import open_cost
from tasks.effects import launch_effect, prefetch_effect, stop_effect
from tasks.ports import free_ports
from tasks.refusals import note_refusal

log = structlog.get_logger(__name__)

START_DEADLINE_MS = 300_000
"""A start that is not ready after this has failed; one predicted to be slow gets three times its prediction."""
AFTER_FETCH_MS = 60_000
"""What a start may take after the last moment at which its fetches are in time, besides the model's measured tail."""


def apply(
    session: Session,
    decisions: Iterable[Decision],
    now_ms: int,
    traceparents: Mapping[str, str | None] = MappingProxyType({}),
) -> int:
    """Apply what still fits the state in SQL; the number of decisions that changed something.

    A decision made from a version that another writer has since replaced is dropped: the next pass decides anew.
    `traceparents` are, by model, the spans of requests that wait: a cold start on demand becomes a part of theirs.
    """
    return sum(_apply_one(session, decision, now_ms, traceparents) for decision in decisions)


def _apply_one(session: Session, decision: Decision, now_ms: int, traceparents: Mapping[str, str | None]) -> bool:
    match decision:
        case Start():
            return _start(session, decision, now_ms, traceparents.get(decision.model))
        case Move():
            return _move(session, decision, now_ms)
        case Stop():
            return _stop(session, decision, now_ms)
        case Wait():
            note_refusal(session, decision, now_ms)
            return False


# --- starting ---------------------------------------------------------------------------------------------------------


def _start(session: Session, decision: Start, now_ms: int, traceparent: str | None) -> bool:
    model = session.scalars(select(Model).where(Model.name == decision.model, Model.deleted_at_ms.is_(None))).one()
    # Of two controllers that want to start this model at once, one finds the version gone.
    swapped = session.execute(
        update(Model)
        .where(Model.id == model.id, Model.control_version == decision.version)
        .values(control_version=decision.version + 1)
        .execution_options(synchronize_session=False)
    )
    if swapped.rowcount != 1:  # type: ignore[attr-defined]
        return False
    session.refresh(model)
    plan = decision.plan
    cold_start = ColdStart(
        id=new_id("cst"),
        model_id=model.id,
        cause=decision.cause.value,
        plan=plan.to_json(),
        predicted_ttft_ms=plan.predicted_ttft_ms if decision.cause is not Cause.CONSOLIDATION else None,
        requested_at_ms=now_ms,
        traceparent=traceparent if decision.cause is Cause.DEMAND else None,
    )
    session.add(cold_start)
    session.flush()
    group = Group(
        id=new_id("grp"),
        model_id=model.id,
        cold_start_id=cold_start.id,
        state=GroupState.STARTING.value,
        parent_id=decision.parent_id,
        plan=plan.to_json(),
        api_key=group_key(),
        created_at_ms=now_ms,
        deadline_ms=_deadline(model, plan, now_ms),
        version=1,
    )
    group.stages = _stages(session, decision)
    session.add(group)
    session.flush()
    open_cost(session, group, model)
    session.add(
        ColdStartEvent(cold_start_id=cold_start.id, kind="planned", at_ms=now_ms, detail={"group_id": group.id})
    )
    # A worker that follows a pipeline which has drained is waited for; one that grows beside its pipeline is not.
    parent = None if decision.parent_id is None else session.get(Group, decision.parent_id)
    background = parent is not None and parent.state in SERVING
    nodes = {node.name: node for node in session.scalars(select(Node))}
    group.url = f"http://{nodes[group.stages[0].node_name].address}:{group.stages[0].port}"
    for stage in group.stages:
        for effect in (
            prefetch_effect(model, group, stage, background=background),
            launch_effect(model, group, stage, nodes[group.stages[0].node_name]),
        ):
            session.add(node_effect(stage.node_name, effect, now_ms))
    log.info("starting", model=model.name, group=group.id, cause=decision.cause.value, stages=plan.s)
    return True


def group_key() -> str:
    """A new key for a group's workers. Never starts with '-': it goes on a command line, and noded refuses it."""
    return "hyk-" + secrets.token_urlsafe(32)


def _deadline(model: Model, plan: Plan, now_ms: int) -> int:
    """When the start has failed if it is not ready: never before a fetch that is still in time can have ended.

    A background fetch (consolidation) may take several times what the prediction is made of.
    """
    fetched = max(stage.deadline_ms for stage in plan.stages)
    after = Profile.from_json(model.profile).tail_ms + AFTER_FETCH_MS
    return max(now_ms + START_DEADLINE_MS, now_ms + 3 * plan.predicted_ttft_ms, fetched + after)


def _stages(session: Session, decision: Start) -> list[Stage]:
    plan = decision.plan
    stages = []
    dist_port: int | None = None
    for part in plan.stages:
        rendezvous = part.rank == 0 and plan.s > 1
        ports = _take_ports(session, part.node, 2 if rendezvous else 1)
        if rendezvous:
            dist_port = ports[1]
        stages.append(
            Stage(
                id=new_id("stg"),
                rank=part.rank,
                node_name=part.node,
                device_idx=part.device,
                first_layer=part.first_layer,
                layer_count=part.layer_count,
                full=part.full,
                reserved_bytes=part.reserved_bytes,
                port=ports[0],
                dist_port=dist_port,
                bytes_to_fetch=part.fetch_bytes,
                fetch_deadline_ms=part.deadline_ms,
                rate_bps=None,  # the node gives its link to the earliest deadline, as the plan assumed
            )
        )
    return stages


def _take_ports(session: Session, node_name: str, count: int) -> list[int]:
    node = session.get_one(Node, node_name)
    open_stages = session.execute(
        select(Stage.port, Stage.dist_port).where(Stage.node_name == node_name, Stage.state.not_in(["gone", "failed"]))
    )
    taken = {port for pair in open_stages for port in pair if port is not None}
    ever = session.scalar(select(func.count()).select_from(Stage).where(Stage.node_name == node_name)) or 0
    return free_ports(node.port_first, node.port_last, taken, count, start_at=2 * ever)


# --- moving, probing, stopping ----------------------------------------------------------------------------------------


def _move(session: Session, decision: Move, now_ms: int) -> bool:
    group = session.get_one(Group, decision.group_id)
    if group.version != decision.version:
        return False
    to = move(group.id, GroupState(group.state), decision.to, decision.why)
    values: dict[str, Any] = {"state": to.value, "version": decision.version + 1}
    if decision.why is not None:  # else why it began to end stays
        values |= {"why": decision.why.to_json(), "reason": why_text(decision.why)}
    if decision.blamed:
        values["blamed"] = sorted(decision.blamed)
    became_ready = to in SERVING and group.ready_at_ms is None
    if became_ready:
        values["ready_at_ms"] = now_ms
    if to in OVER:
        values["stopped_at_ms"] = now_ms
    swapped = session.execute(
        update(Group)
        .where(Group.id == group.id, Group.version == decision.version)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    if swapped.rowcount != 1:  # type: ignore[attr-defined]
        return False
    session.refresh(group)
    if to in OVER:
        # A stop stays: what may still run on a node that is away is ended when it returns.
        _call_off(session, group, now_ms, Outbox.kind != "stop")
    log.info("group moved", group=group.id, to=to.value, reason=values.get("reason"))
    if group.cold_start_id is not None:
        cold_start = session.get_one(ColdStart, group.cold_start_id)
        if became_ready:
            cold_start.ready_at_ms = now_ms
            session.add(ColdStartEvent(cold_start_id=cold_start.id, kind="ready", at_ms=now_ms))
        elif to in OVER and cold_start.ready_at_ms is None:
            cold_start.failed_at_ms = now_ms
            cold_start.reason, cold_start.why = group.reason, group.why
    return True


def _stop(session: Session, decision: Stop, now_ms: int) -> bool:
    group = session.get_one(Group, decision.group_id)
    _call_off(session, group, now_ms)
    for node in sorted({stage.node_name for stage in group.stages}):
        session.add(node_effect(node, stop_effect(group, quiet=decision.quiet), now_ms))
    log.info("stopping", group=group.id)
    return True


def _call_off(session: Session, group: Group, now_ms: int, *only: ColumnElement[bool]) -> None:
    """What no node has answered yet (`only` such rows) is not sent again: the group is to end."""
    session.execute(
        update(Outbox)
        .where(Outbox.group_id == group.id, Outbox.done_at_ms.is_(None), *only)
        .values(done_at_ms=now_ms, error="called off: the group is to end")
        .execution_options(synchronize_session=False)
    )


def node_effect(node: str, effect: dict[str, Any], now_ms: int) -> Outbox:
    """An outbox row that carries one effect to a node."""
    return Outbox(
        queue=f"node.{node}",
        task="node.apply",
        kind=effect["kind"],
        args=[effect],
        group_id=effect["group_id"],
        version=effect["version"],
        created_at_ms=now_ms,
    )
