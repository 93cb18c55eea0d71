"""Reads SQL and demand into the one state that decisions are made from."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, defer, selectinload

from orchestrator import calibration
from orchestrator.consolidation import kept
from orchestrator.control import ControlState, ModelView
from orchestrator.groups import Cause, Groups, GroupView, ProbeView, StageState, StageView
from orchestrator.lifecycle import OVER, GroupState
from orchestrator.nodes import Nodes
from orchestrator.prewarming import LEAD_MS
from orchestrator.scaling import EARLY_DEATH_MS
from orchestrator.types import DeviceState, Fetch, NodeState, Plan, StoreState
from orchestrator.why import Why
from registry.models import ColdStart, Group, Model, ModelUse, Node, Outbox, Stage, Usage
from registry.store_origin import origin
from tasks.demand import Demand, ModelDemand
from tasks.facts import Facts, Held, ModelFacts
from tasks.outbox import stop_under_way, unheard
from tasks.spec import planned_kind

NODE_LOST_MS = 20_000
"""A node that has not reported for so long, while somebody listened, is lost: its worker asks it every few seconds."""
_OVER = [state.value for state in OVER]
LAST_USED_STEP_MS = 10_000
"""How far behind `last_used_at_ms` may be: it is not worth a write with every request."""
_GONE = [StageState.GONE.value, StageState.FAILED.value]
Failures = tuple[int, int | None, frozenset[str]]
_NO_FAILURES: Failures = (0, None, frozenset())


def load_state(
    session: Session,
    demand: Demand,
    now_ms: int,
    watching_ms: int = 0,
    facts: Facts | None = None,
    store_bps: Mapping[str, int] | None = None,
) -> ControlState:
    """Everything the controller may decide from, as of now. Only reads.

    `store_bps`: what stores give to all nodes together, by origin (registry/store_origin.py), bytes/s.

    `watching_ms`: since when it has listened to nodes without a gap (tasks/watch.py). Silence before that is no sign.
    `facts`: what the caller's process has decoded before.
    """
    return _load(session, demand, now_ms, watching_ms, facts or Facts(), store_bps or {})[0]


def load_and_note(
    session: Session,
    demand: Demand,
    now_ms: int,
    watching_ms: int,
    facts: Facts,
    store_bps: Mapping[str, int],
) -> ControlState:
    """The same for the controller, which alone writes: with its commit go when each drain was first seen and when each
    group was last used."""
    state, drains, used = _load(session, demand, now_ms, watching_ms, facts, store_bps)
    for node, began_ms in drains.items():
        node.drain_began_at_ms = began_ms
    for group, used_ms in used.items():
        group.last_used_at_ms = used_ms
    return state


def _load(
    session: Session, demand: Demand, now_ms: int, watching_ms: int, facts: Facts, store_bps: Mapping[str, int]
) -> tuple[ControlState, dict[Node, int | None], dict[Group, int | None]]:
    """The state; when each node's drain was first seen, and when each group was last used, as of now."""
    groups = _live_groups(session)
    plans = {group.id: Plan.from_json(group.plan) for group in groups}
    nodes = session.scalars(
        select(Node).options(selectinload(Node.devices), defer(Node.report)).order_by(Node.name)
    ).all()
    stores = {node.name: facts.of_node(node).digests for node in nodes}
    # What providers serve is not the controller's: nothing of it can start or stop.
    served_here = select(Model).where(Model.deleted_at_ms.is_(None), Model.lane != "hosted")
    models = session.scalars(served_here.options(defer(Model.manifest))).all()
    learnt = facts.learnt(session)
    pauses, windows = _pauses(session, groups), _expected(session, now_ms)
    failing = _failing(session)
    causes = _causes(session, groups)
    stopping = _stopping(session, groups, now_ms)
    deaf = unheard(session, [group.id for group in groups if group.state == GroupState.STARTING.value])
    heir_failures = _heir_failures(session, groups)
    used, last_used = _use(groups, demand, now_ms)
    drains = {node: (node.drain_began_at_ms or now_ms) if node.draining else None for node in nodes}
    views = Groups(
        replace(
            _group(g, plans[g.id], causes[g.id], demand, last_used[g]),
            stopping=g.id in stopping,
            unheard=deaf.get(g.id, frozenset()),
            heir_failures=heir_failures.get(g.id, (0, None))[0],
            heir_failed_ms=heir_failures.get(g.id, (0, None))[1],
        )
        for g in groups
    )
    kept_for_heirs = [kept_there for view in views for kept_there in kept(views, view)]
    state = ControlState(
        now_ms=now_ms,
        nodes=Nodes(_node(node, facts.of_node(node).warm, groups, kept_for_heirs) for node in nodes),
        models={
            m.name: _model(
                m,
                facts.of_model(m, learnt),
                demand.models.get(m.name, ModelDemand()),
                stores,
                used.get(m.id),
                _failures(session, m) if m.id in failing else _NO_FAILURES,
                pauses.get(m.id, ()) if m.keep_alive_mode == "learned" else (),
                windows.get(m.id) if m.keep_alive_mode == "learned" else None,
            )
            for m in models
        },
        groups=views,
        routes_version=demand.routes_version,
        lost=frozenset(n.name for n in nodes if now_ms - max(n.seen_at_ms, watching_ms) > NODE_LOST_MS),
        draining={node.name: began_ms for node, began_ms in drains.items() if began_ms is not None},
        gateways_known=demand.known,
        stores=_stores(groups, store_bps),
    )
    return state, drains, last_used


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


def _use(groups: Iterable[Group], demand: Demand, now_ms: int) -> tuple[dict[str, int], dict[Group, int | None]]:
    """When each model was last asked for, by its id; when each group was last used.

    Kept in SQL, roughly: else a Redis that has lost its memory makes a model look idle for as long as it has been up.
    A request that came and went between two looks counts for the group that was used last.
    """
    used: dict[str, int] = {}
    last_used = {group: group.last_used_at_ms for group in groups}
    serving: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        asked_ms = demand.models.get(group.model.name, ModelDemand()).last_request_at_ms or 0
        used[group.model_id] = max(used.get(group.model_id, 0), asked_ms, group.last_used_at_ms or 0)
        if group.ready_at_ms is not None and group.state not in _OVER:
            serving[group.model_id].append(group)
    for model_id, mine in serving.items():
        busy = [group for group in mine if demand.running[group.id]]
        latest = max(mine, key=lambda group: (group.last_used_at_ms or 0, group.ready_at_ms or 0, group.id))
        for group, at_ms in [(group, now_ms) for group in busy] or [(latest, used[model_id])]:
            if at_ms > (group.last_used_at_ms or 0) + LAST_USED_STEP_MS:
                last_used[group] = at_ms
    return used, last_used


def _pauses(session: Session, groups: Iterable[Group]) -> dict[str, tuple[int, ...]]:
    """By model id, of those that have workers: for how long each of these is kept hangs on them."""
    ids = {group.model_id for group in groups}
    rows = session.scalars(select(ModelUse).where(ModelUse.model_id.in_(ids)))
    return {row.model_id: tuple(row.pauses_ms) for row in rows}


def _expected(session: Session, now_ms: int) -> dict[str, tuple[int, int]]:
    """By model id, of those for which it is time to think of it: from when until when they are expected."""
    begin, end = ModelUse.expected_from_ms, ModelUse.expected_until_ms
    rows = session.execute(select(ModelUse.model_id, begin, end).where(end > now_ms, begin < now_ms + LEAD_MS))
    return {model_id: (from_ms, until_ms) for model_id, from_ms, until_ms in rows if from_ms and until_ms}


def _causes(session: Session, groups: Iterable[Group]) -> Mapping[str, Cause]:
    ids = {g.cold_start_id: g.id for g in groups if g.cold_start_id}
    rows = session.execute(select(ColdStart.id, ColdStart.cause).where(ColdStart.id.in_(ids)))
    found = {ids[cold_start]: Cause(cause) for cold_start, cause in rows}
    return defaultdict(lambda: Cause.DEMAND, found)


# --- nodes ------------------------------------------------------------------------------------------------------------


def _node(node: Node, warm: bool, groups: Sequence[Group], kept_for_heirs: Iterable[tuple[str, int, int]]) -> NodeState:
    reserved: dict[int, int] = defaultdict(int)
    fetches: list[Fetch] = []
    ports = 0
    for group in groups:
        for stage in group.stages:
            if stage.node_name != node.name or stage.state in _GONE:
                continue
            reserved[stage.device_idx] += stage.reserved_bytes
            ports += 1 + (stage.dist_port is not None)
            fetches += _fetches(stage)
    for name, device_idx, size in kept_for_heirs:
        if name == node.name:
            reserved[device_idx] += size
    devices = tuple(
        DeviceState(
            node=node.name,
            index=device.idx,
            kind=planned_kind(device.kind, device.name),
            memory_bytes=device.memory_bytes,
            free_bytes=max(0, device.memory_bytes - reserved[device.idx]),
        )
        for device in node.devices
    )
    return NodeState(
        name=node.name,
        link_bps=calibration.link_bps(node.link_bps, node.fetch_bps or ()),
        devices=devices,
        fetches=tuple(fetches),
        cordoned=node.cordoned or node.draining,
        warm=warm,
        free_ports=max(0, node.port_last - node.port_first + 1 - ports),
    )


def _fetches(stage: Stage) -> Iterator[Fetch]:
    """What the stage still fetches, if it does."""
    if stage.state not in _GONE and not stage.verified and stage.fetch_deadline_ms is not None:
        remaining = max(0, stage.bytes_to_fetch - stage.bytes_fetched)
        yield Fetch(stage.id, stage.node_name, remaining, stage.fetch_deadline_ms)


def _stores(groups: Iterable[Group], store_bps: Mapping[str, int]) -> dict[str, StoreState]:
    """The stores of which it is known what they give, with what is fetched from them."""
    fetches: dict[str, list[Fetch]] = {name: [] for name in store_bps}
    for group in groups if store_bps else ():
        if (name := origin(group.model.source)) in fetches:
            fetches[name] += (fetch for stage in group.stages for fetch in _fetches(stage))
    return {name: StoreState(name, bps, tuple(fetches[name])) for name, bps in store_bps.items()}


# --- groups and models ------------------------------------------------------------------------------------------------


def _group(group: Group, plan: Plan, cause: Cause, demand: Demand, last_used_ms: int | None) -> GroupView:
    probe = group.probe
    return GroupView(
        group_id=group.id,
        model=group.model.name,
        state=GroupState(group.state),
        version=group.version,
        cause=cause,
        plan=plan,
        stages=tuple(
            StageView(
                s.id,
                s.rank,
                s.node_name,
                StageState(s.state),
                s.verified,
                s.reason,
                bytes_fetched=s.bytes_fetched,
                bytes_to_fetch=s.bytes_to_fetch,
            )
            for s in group.stages
        ),
        created_ms=group.created_at_ms,
        ready_ms=group.ready_at_ms,
        parent_id=group.parent_id,
        probe=ProbeView(probe["ok"], probe.get("error")) if probe and "ok" in probe else None,
        running=demand.running[group.id],
        last_used_ms=last_used_ms,
        why=None if group.why is None else Why.from_json(group.why),
        drain_version=group.drain_version,
        deadline_ms=group.deadline_ms,
    )


def _model(
    model: Model,
    known: ModelFacts,
    demand: ModelDemand,
    stores: Mapping[str, frozenset[str]],
    used_ms: int | None,
    failures: Failures,
    pauses_ms: tuple[int, ...],
    expected_ms: tuple[int, int] | None,
) -> ModelView:
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
        oldest_by_class=demand.oldest_by_class,
        running=demand.running,
        last_request_ms=used_ms or demand.last_request_at_ms,
        failures=count,
        failed_ms=failed_ms,
        avoid=avoid,
        held=Held(known.parts, stores),
        version=model.control_version,
        store=origin(model.source),
        pauses_ms=pauses_ms,
        expected_ms=expected_ms,
    )


def _failing(session: Session) -> frozenset[str]:
    """Ids of the models of which a group has ever failed: all others need not be asked after one by one."""
    query = select(Group.model_id).where(Group.state == GroupState.FAILED.value, Group.parent_id.is_(None))
    return frozenset(session.scalars(query.distinct()))


def _failures(session: Session, model: Model) -> Failures:
    """Starts that failed in a row, when the newest did, and every node that any of them broke on.

    A pipeline's heirs are left out: the pipeline serves, so their failures must not keep requests from a start.
    """
    recent = session.scalars(
        select(Group)
        .where(Group.model_id == model.id, Group.parent_id.is_(None))
        .order_by(Group.created_at_ms.desc())
        .limit(12)
    ).all()
    failed = []
    for group in recent:
        if group.state == GroupState.FAILED and not _worked(session, group):
            failed.append(group)
        elif group.ready_at_ms is not None:
            break
    if not failed:
        return 0, None, frozenset()
    return len(failed), failed[0].stopped_at_ms, frozenset(node for group in failed for node in group.blamed)


def _worked(session: Session, group: Group) -> bool:
    """Whether a group that failed had become ready and then lived for a while or served a request."""
    if group.ready_at_ms is None:
        return False
    if (group.stopped_at_ms or 0) - group.ready_at_ms >= EARLY_DEATH_MS:
        return True
    served = select(Usage.attempt_id).where(Usage.group_id == group.id, Usage.outcome == "ok").limit(1)
    return session.scalar(served) is not None


def _heir_failures(session: Session, groups: Iterable[Group]) -> dict[str | None, tuple[int, int | None]]:
    """How many heirs of each pipeline have failed, and when the last one did."""
    query = (
        select(Group.parent_id, func.count(), func.max(Group.stopped_at_ms))
        .where(Group.parent_id.in_([group.id for group in groups]), Group.state == GroupState.FAILED.value)
        .group_by(Group.parent_id)
    )
    return {parent: (count, last_ms) for parent, count, last_ms in session.execute(query)}
