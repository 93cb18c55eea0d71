"""Reads SQL and demand into the one state that decisions are made from."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, defer, selectinload

from orchestrator.control import Cause, ControlState, GroupView, ModelView, ProbeView, StageState, StageView
from orchestrator.lifecycle import OVER, GroupState
from orchestrator.types import DeviceState, Fetch, NodeState, Plan
from registry.models import ColdStart, Group, Model, Node, Outbox, Stage
from tasks.demand import Demand, ModelDemand
from tasks.facts import Facts, Held
from tasks.outbox import stop_under_way, unheard

NODE_LOST_MS = 20_000
"""A node that has not reported for so long, while somebody listened, is lost: its worker asks it every few seconds."""
_OVER = [state.value for state in OVER]
LAST_USED_STEP_MS = 10_000
"""How far behind `last_used_at_ms` may be: it is not worth a write with every request."""
_GONE = [StageState.GONE.value, StageState.FAILED.value]
Failures = tuple[int, int | None, frozenset[str]]
_NO_FAILURES: Failures = (0, None, frozenset())


def load_state(
    session: Session, demand: Demand, now_ms: int, watching_ms: int = 0, facts: Facts | None = None
) -> ControlState:
    """Everything the controller may decide from, as of now.

    `watching_ms`: since when it has listened to nodes without a gap (tasks/watch.py). Silence before that is no sign.
    `facts`: what the caller's process has decoded before.
    """
    facts = facts or Facts()
    groups = _live_groups(session)
    plans = {group.id: Plan.from_json(group.plan) for group in groups}
    nodes = session.scalars(
        select(Node).options(selectinload(Node.devices), defer(Node.report)).order_by(Node.name)
    ).all()
    stores = {node.name: facts.of_node(node).digests for node in nodes}
    models = session.scalars(select(Model).where(Model.deleted_at_ms.is_(None)).options(defer(Model.manifest))).all()
    failing = _failing(session)
    causes = _causes(session, groups)
    stopping = _stopping(session, groups, now_ms)
    deaf = unheard(session, [group.id for group in groups if group.state == GroupState.STARTING.value])
    used = _note_use(groups, demand)
    return ControlState(
        now_ms=now_ms,
        nodes=tuple(_node(node, facts.of_node(node).warm, groups, plans) for node in nodes),
        models={
            m.name: _model(
                m,
                facts,
                demand.models.get(m.name, ModelDemand()),
                stores,
                used.get(m.id),
                _failures(session, m) if m.id in failing else _NO_FAILURES,
            )
            for m in models
        },
        groups=tuple(
            _group(g, plans[g.id], causes[g.id], demand, g.id in stopping, deaf.get(g.id, frozenset())) for g in groups
        ),
        routes_version=demand.routes_version,
        lost=frozenset(n.name for n in nodes if now_ms - max(n.seen_at_ms, watching_ms) > NODE_LOST_MS),
        draining=frozenset(n.name for n in nodes if n.draining),
        gateways_known=demand.known,
    )


def _live_groups(session: Session) -> Sequence[Group]:
    """Groups that are not over, and those of which a node may still have processes."""
    unreleased = select(Stage.group_id).where(Stage.state.not_in(_GONE))
    return session.scalars(
        select(Group)
        .where(or_(Group.state.not_in(_OVER), Group.id.in_(unreleased)))
        .options(selectinload(Group.stages), selectinload(Group.model).defer(Model.manifest))
        .order_by(Group.created_at_ms, Group.id)
    ).all()


def _stopping(session: Session, groups: Iterable[Group], now_ms: int) -> set[str | None]:
    """Groups with a stop that is on its way, or was taken a moment ago."""
    ids = [group.id for group in groups]
    return set(session.scalars(select(Outbox.group_id).where(Outbox.group_id.in_(ids), stop_under_way(now_ms))))


def _note_use(groups: Iterable[Group], demand: Demand) -> dict[str, int]:
    """When each model was last asked for, by its id.

    Kept in SQL, roughly: else a Redis that has lost its memory makes a model look idle for as long as it has been up.
    """
    used: dict[str, int] = {}
    for group in groups:
        asked_ms = demand.models.get(group.model.name, ModelDemand()).last_request_at_ms or 0
        if asked_ms > (group.last_used_at_ms or 0) + LAST_USED_STEP_MS:
            group.last_used_at_ms = asked_ms
        used[group.model_id] = max(used.get(group.model_id, 0), asked_ms, group.last_used_at_ms or 0)
    return used


def _causes(session: Session, groups: Iterable[Group]) -> Mapping[str, Cause]:
    ids = {g.cold_start_id: g.id for g in groups if g.cold_start_id}
    rows = session.execute(select(ColdStart.id, ColdStart.cause).where(ColdStart.id.in_(ids)))
    found = {ids[cold_start]: Cause(cause) for cold_start, cause in rows}
    return defaultdict(lambda: Cause.DEMAND, found)


# --- nodes ------------------------------------------------------------------------------------------------------------


def _node(node: Node, warm: bool, groups: Sequence[Group], plans: Mapping[str, Plan]) -> NodeState:
    reserved: dict[int, int] = defaultdict(int)
    fetches = []
    ports = 0
    for group in groups:
        for stage in group.stages:
            if stage.node_name != node.name or stage.state in _GONE:
                continue
            reserved[stage.device_idx] += stage.reserved_bytes
            ports += 1 + (stage.dist_port is not None)
            if not stage.verified and stage.fetch_deadline_ms is not None:
                remaining = max(0, stage.bytes_to_fetch - stage.bytes_fetched)
                fetches.append(Fetch(stage.id, node.name, remaining, stage.fetch_deadline_ms))
        for device, size in _kept_for_heirs(group, plans[group.id], groups, node.name):
            reserved[device] += size
    devices = tuple(
        DeviceState(
            node=node.name,
            index=device.idx,
            kind=device.kind,
            memory_bytes=device.memory_bytes,
            free_bytes=max(0, device.memory_bytes - reserved[device.idx]),
        )
        for device in node.devices
    )
    return NodeState(
        name=node.name,
        link_bps=node.link_bps,
        devices=devices,
        fetches=tuple(fetches),
        cordoned=node.cordoned or node.draining,
        warm=warm,
        free_ports=max(0, node.port_last - node.port_first + 1 - ports),
    )


def _kept_for_heirs(group: Group, plan: Plan, groups: Sequence[Group], node: str) -> Iterable[tuple[int, int]]:
    """Memory that a pipeline's plan keeps for the standalone worker that will follow it, until that worker exists."""
    if group.state in (*_OVER, GroupState.DRAINING):
        return
    consolidate = plan.consolidate
    if consolidate is None:
        return
    heirs = {
        stage.node_name for g in groups if g.parent_id == group.id for stage in g.stages if stage.state not in _GONE
    }
    for target in consolidate.targets:
        if target.node == node and node not in heirs:
            yield target.device, target.reserved_bytes


# --- groups and models ------------------------------------------------------------------------------------------------


def _group(group: Group, plan: Plan, cause: Cause, demand: Demand, stopping: bool, deaf: frozenset[str]) -> GroupView:
    probe = group.probe
    return GroupView(
        group_id=group.id,
        model=group.model.name,
        state=GroupState(group.state),
        version=group.version,
        cause=cause,
        plan=plan,
        stages=tuple(
            StageView(s.id, s.rank, s.node_name, StageState(s.state), s.verified, s.reason) for s in group.stages
        ),
        created_ms=group.created_at_ms,
        ready_ms=group.ready_at_ms,
        parent_id=group.parent_id,
        probe=ProbeView(probe["sent_at_ms"], probe.get("ok"), probe.get("error")) if probe else None,
        running=demand.running[group.id],
        drain_version=group.drain_version,
        deadline_ms=group.deadline_ms,
        stopping=stopping,
        unheard=deaf,
    )


def _model(
    model: Model,
    facts: Facts,
    demand: ModelDemand,
    stores: Mapping[str, frozenset[str]],
    used_ms: int | None,
    failures: Failures,
) -> ModelView:
    known = facts.of_model(model)
    count, failed_ms, avoid = failures
    return ModelView(
        spec=known.spec,
        enabled=model.enabled,
        min_replicas=model.min_replicas,
        warm_until_ms=model.warm_until_ms,
        stop_requested_ms=model.stop_requested_at_ms,
        keep_alive_ms=model.keep_alive_s * 1000,
        waiting=demand.waiting,
        oldest_waiting_ms=demand.oldest_at_ms,
        running=demand.running,
        last_request_ms=used_ms or demand.last_request_at_ms,
        failures=count,
        failed_ms=failed_ms,
        avoid=avoid,
        held=Held(known.parts, stores),
        version=model.control_version,
    )


def _failing(session: Session) -> frozenset[str]:
    """Ids of the models of which a start has ever failed: all others need not be asked after one by one."""
    query = select(Group.model_id).where(Group.state == GroupState.FAILED.value, Group.ready_at_ms.is_(None))
    return frozenset(session.scalars(query.distinct()))


def _failures(session: Session, model: Model) -> Failures:
    """Starts that failed in a row, newest first, when the newest did, and the nodes it broke on."""
    recent = session.scalars(
        select(Group)
        .where(Group.model_id == model.id)
        .options(selectinload(Group.stages))
        .order_by(Group.created_at_ms.desc())
        .limit(12)
    ).all()
    failed = []
    for group in recent:
        if group.ready_at_ms is not None:
            break
        if group.state == GroupState.FAILED:
            failed.append(group)
    if not failed:
        return 0, None, frozenset()
    avoid = frozenset(stage.node_name for stage in failed[0].stages if stage.state == StageState.FAILED)
    return len(failed), failed[0].stopped_at_ms, avoid
