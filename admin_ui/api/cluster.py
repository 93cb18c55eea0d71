"""Nodes, and cold starts with their plans and reasons."""

from collections.abc import Callable

from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api.management import Offset, Page, Text, api
from admin_ui.api.models import find_model
from admin_ui.api.operation import change
from admin_ui.database import db
from admin_ui.permissions import Permission
from admin_ui.read.cluster import OFFLINE_AFTER_MS, NodeView, node_views, stages_on
from admin_ui.read.decision import explained
from orchestrator.calibration import link_bps
from registry.documents.cluster import (
    ColdStartDocument,
    NodeDocument,
    StageDocument,
    StepDocument,
    cold_start_document,
    node_document,
    stage_document,
)
from registry.documents.costs import StartCostDocument, start_cost_document
from registry.ids import now_ms
from registry.models import Node
from registry.ops import coldstarts, nodes
from registry.ops.cost_queries import start_cost


class Nodes(TypedDict):
    """All nodes by name."""

    nodes: list[NodeDocument]


class NodeWithStages(NodeDocument):
    """A node, and what runs there."""

    running: list[StageDocument]


class OneNode(TypedDict):
    """One node."""

    node: NodeWithStages


class ColdStarts(TypedDict):
    """Cold starts, the latest first; `next_offset` is null on the last page."""

    cold_starts: list[ColdStartDocument]
    next_offset: int | None


class OneColdStart(TypedDict):
    """A cold start, why it was planned so (or why not at all), what it has cost, and its steps.

    `cost` is null of a start from before that was counted.
    """

    cold_start: ColdStartDocument
    explanation: list[str]
    cost: StartCostDocument | None
    waterfall: list[StepDocument]


class ColdStartsQuery(Page):
    """`model` is a name, alias or id."""

    model: Text | None = None
    offset: Offset = 0


@api.operation("GET", "/nodes", Permission.SEE, "All nodes", tag="nodes", answer=Nodes)
def list_nodes() -> Nodes:
    return {"nodes": [_document(view) for view in node_views(db(), now_ms())]}


@api.operation("GET", "/nodes/<node>", Permission.SEE, "One node, and what runs there", tag="nodes", answer=OneNode)
def show_node(node: str) -> OneNode:
    nodes.get_node(db(), node)
    view = next(view for view in node_views(db(), now_ms()) if view.node.name == node)
    return {"node": {**_document(view), "running": [stage_document(stage) for stage in stages_on(db(), node)]}}


@api.operation("POST", "/nodes/<node>/cordon", Permission.CHANGE_NODES, "No new stage", tag="nodes", answer=OneNode)
def cordon_node(node: str) -> OneNode:
    return _mark(node, nodes.cordon)


@api.operation("POST", "/nodes/<node>/uncordon", Permission.CHANGE_NODES, "Stages again", tag="nodes", answer=OneNode)
def uncordon_node(node: str) -> OneNode:
    return _mark(node, nodes.uncordon)


@api.operation("POST", "/nodes/<node>/drain", Permission.CHANGE_NODES, "Empty a node", tag="nodes", answer=OneNode)
def drain_node(node: str) -> OneNode:
    return _mark(node, nodes.drain)


@api.operation(
    "GET", "/cold-starts", Permission.SEE, "Cold starts, the latest first", tag="cold starts",
    query=ColdStartsQuery, answer=ColdStarts, errors=(404,),
)  # fmt: skip
def list_cold_starts(query: ColdStartsQuery) -> ColdStarts:
    model_id = find_model(db(), query.model).id if query.model is not None else None
    found = coldstarts.list_cold_starts(db(), model_id=model_id, limit=query.limit + 1, offset=query.offset)
    return {
        "cold_starts": [cold_start_document(row) for row in found[: query.limit]],
        "next_offset": query.offset + query.limit if len(found) > query.limit else None,
    }


@api.operation(
    "GET", "/cold-starts/<cold_start>", Permission.SEE, "One cold start, with its reasons, cost and steps",
    tag="cold starts", answer=OneColdStart,
)  # fmt: skip
def show_cold_start(cold_start: str) -> OneColdStart:
    found = coldstarts.waterfall(db(), cold_start)
    decision = explained(found.cold_start.plan)
    cost = start_cost(db(), cold_start)
    return {
        "cold_start": cold_start_document(found.cold_start),
        "explanation": [*decision.reasons, *([decision.problem] if decision.problem else [])],
        "cost": None if cost is None else start_cost_document(cost),
        "waterfall": [
            {
                "stage_id": row.stage_id,
                "label": row.label,
                "step": row.step,
                "start_ms": row.start_ms,
                "end_ms": row.end_ms,
            }
            for row in found.rows
        ],
    }


def _mark(node: str, mark: Callable[[Session, str, str], Node]) -> OneNode:
    change(lambda session, actor: mark(session, actor, node), reconcile=True)
    return show_node(node)


def _document(view: NodeView) -> NodeDocument:
    return node_document(
        view.node,
        now_ms(),
        lost_after_ms=OFFLINE_AFTER_MS,
        planned_link_bps=link_bps(view.node.link_bps, view.node.fetch_bps or ()),
        free_bytes={one.device.idx: max(0, one.device.memory_bytes - one.reserved_bytes) for one in view.devices},
        stages=len(stages_on(db(), view.node.name)),
    )
