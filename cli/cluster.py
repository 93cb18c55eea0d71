"""Nodes, groups and stages as SQL has them, as documents for the commands that show them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from orchestrator.idle_memory import budget_bytes, held_bytes, is_plenty
from orchestrator.policies import HYDRANT
from registry.documents.cluster import NodeDocument, StageDocument, node_document, stage_document
from registry.models import Group, Model, Node, Stage
from registry.ops.models import ENDED_STATES
from registry.settings import Settings
from tasks.demand import Demand
from tasks.state import NODE_LOST_MS, load_state

_NO_PROCESS = ("gone", "failed")


def node_documents(session: Session, now_ms: int) -> list[NodeDocument]:
    """Every node with its devices. `free_bytes` is what the planner may use: no reservation counts twice."""
    planned = {node.name: node for node in load_state(session, Demand(), now_ms).nodes}
    nodes = session.scalars(select(Node).options(selectinload(Node.devices)).order_by(Node.name)).all()
    stages: dict[str, int] = defaultdict(int)
    for stage in _live_stages(session):
        stages[stage.node_name] += 1
    return [
        node_document(
            node,
            now_ms,
            lost_after_ms=NODE_LOST_MS,
            planned_link_bps=planned[node.name].link_bps,
            free_bytes={device.index: device.free_bytes for device in planned[node.name].devices},
            stages=stages[node.name],
        )
        for node in nodes
    ]


def stage_documents(session: Session, *, node: str) -> list[StageDocument]:
    """The stages on a node whose group is not over, or whose processes are not gone."""
    return [stage_document(stage) for stage in _live_stages(session) if stage.node_name == node]


def group_documents(session: Session) -> list[dict[str, Any]]:
    """Every group that is not over, the oldest first."""
    groups = session.scalars(
        select(Group)
        .where(Group.state.not_in(ENDED_STATES))
        .options(selectinload(Group.stages), selectinload(Group.model).defer(Model.manifest))
        .order_by(Group.created_at_ms, Group.id)
    )
    return [
        {
            "group_id": group.id,
            "model": group.model.name,
            "state": group.state,
            "reason": group.reason,
            "why": group.why,
            "nodes": [stage.node_name for stage in group.stages],
            "cold_start_id": group.cold_start_id,
            "created_at_ms": group.created_at_ms,
            "ready_at_ms": group.ready_at_ms,
            "bytes_fetched": sum(stage.bytes_fetched for stage in group.stages),
            "bytes_to_fetch": sum(stage.bytes_to_fetch for stage in group.stages),
        }
        for group in groups
    ]


def idle_memory_document(session: Session, settings: Settings, now_ms: int) -> dict[str, int]:
    """What idle workers hold beyond their set keep-alives, by what SQL knows of their use, and may hold at most."""
    state = load_state(session, Demand(), now_ms)
    percent = settings.idle_memory_percent
    return {
        "percent": percent,
        "budget_bytes": budget_bytes(state, replace(HYDRANT, idle_percent=percent)),
        "held_bytes": held_bytes(state),
    }


def memory_is_plenty(session: Session, percent: int, now_ms: int) -> bool:
    """Whether no more than `percent` of all device memory is reserved: idle workers then stay for longer."""
    return is_plenty(load_state(session, Demand(), now_ms), replace(HYDRANT, idle_percent=percent))


def _live_stages(session: Session) -> Iterable[Stage]:
    return session.scalars(
        select(Stage)
        .join(Group)
        .where(Group.state.not_in(ENDED_STATES), Stage.state.not_in(_NO_PROCESS))
        .options(selectinload(Stage.group).selectinload(Group.model).defer(Model.manifest))
        .order_by(Group.created_at_ms, Stage.rank)
    ).all()
