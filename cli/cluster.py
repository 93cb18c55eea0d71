"""Nodes, groups and stages as SQL has them, as documents for the commands that show them."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from registry.models import Group, Model, Node, Stage
from registry.ops.models import ENDED_STATES
from tasks.demand import Demand
from tasks.state import NODE_LOST_MS, load_state

_NO_PROCESS = ("gone", "failed")


def node_documents(session: Session, now_ms: int) -> list[dict[str, Any]]:
    """Every node with its devices. `free_bytes` is what the planner may use: no reservation counts twice."""
    planned = {node.name: node for node in load_state(session, Demand(), now_ms).nodes}
    nodes = session.scalars(select(Node).options(selectinload(Node.devices)).order_by(Node.name)).all()
    stages: dict[str, int] = defaultdict(int)
    for stage in _live_stages(session):
        stages[stage.node_name] += 1
    documents = []
    for node in nodes:
        free = {device.index: device.free_bytes for device in planned[node.name].devices}
        warm, store = node.report.get("warm", {}), node.report.get("store", {})
        documents.append(
            {
                "name": node.name,
                "state": _state(node, now_ms),
                "address": node.address,
                "link_bps": node.link_bps,
                "planned_link_bps": planned[node.name].link_bps,
                "port_first": node.port_first,
                "port_last": node.port_last,
                "seen_at_ms": node.seen_at_ms,
                "seen_ago_ms": max(0, now_ms - node.seen_at_ms),
                "warm": bool(warm.get("ready")),
                "engine": warm.get("engine"),
                "warm_memory_bytes": warm.get("memory_bytes"),
                "store_bytes": store.get("bytes", 0),
                "store_limit_bytes": store.get("limit_bytes", 0),
                "stages": stages[node.name],
                "devices": [
                    {
                        "index": device.idx,
                        "kind": device.kind,
                        "name": device.name,
                        "memory_bytes": device.memory_bytes,
                        "free_bytes": free[device.idx],
                    }
                    for device in node.devices
                ],
            }
        )
    return documents


def stage_documents(session: Session, *, node: str) -> list[dict[str, Any]]:
    """The stages on a node whose group is not over, or whose processes are not gone."""
    documents = []
    for stage in _live_stages(session):
        if stage.node_name == node:
            documents.append(
                {
                    "stage_id": stage.id,
                    "group_id": stage.group_id,
                    "model": stage.group.model.name,
                    "rank": stage.rank,
                    "device": stage.device_idx,
                    "layers": f"{stage.first_layer}-{stage.first_layer + stage.layer_count - 1}",
                    "state": stage.state,
                    "reserved_bytes": stage.reserved_bytes,
                    "bytes_fetched": stage.bytes_fetched,
                    "bytes_to_fetch": stage.bytes_to_fetch,
                    "pids": list(stage.pids),
                }
            )
    return documents


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


def _state(node: Node, now_ms: int) -> str:
    if now_ms - node.seen_at_ms > NODE_LOST_MS:
        return "lost"
    if node.draining:
        return "draining"
    return "cordoned" if node.cordoned else "ready"


def _live_stages(session: Session) -> Iterable[Stage]:
    return session.scalars(
        select(Stage)
        .join(Group)
        .where(Group.state.not_in(ENDED_STATES), Stage.state.not_in(_NO_PROCESS))
        .options(selectinload(Stage.group).selectinload(Group.model).defer(Model.manifest))
        .order_by(Group.created_at_ms, Stage.rank)
    ).all()
