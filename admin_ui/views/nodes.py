"""Nodes: what they report; cordon, uncordon, drain."""

from flask import Blueprint, redirect, render_template, url_for
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import press
from admin_ui.database import db
from admin_ui.permissions import Permission, permission
from admin_ui.read.cluster import node_views, stages_on
from admin_ui.views.found import found
from orchestrator.calibration import link_bps
from registry.ids import now_ms
from registry.ops import nodes

blueprint = Blueprint("nodes", __name__, url_prefix="/nodes")


@blueprint.get("")
@permission(Permission.SEE)
def index() -> str:
    """All nodes."""
    return render_template("nodes/index.html", nodes=node_views(db(), now_ms()))


@blueprint.get("/<name>")
@permission(Permission.SEE)
def show(name: str) -> str:
    """One node: devices, store, warm runtime, and the stages on it."""
    found(nodes.get_node, db(), name)
    view = next(view for view in node_views(db(), now_ms()) if view.node.name == name)
    seen_bps = link_bps(view.node.link_bps, view.node.fetch_bps or ())
    return render_template("nodes/show.html", view=view, stages=stages_on(db(), name), seen_bps=seen_bps)


@blueprint.post("/<name>/cordon")
@permission(Permission.CHANGE_NODES)
def cordon(name: str) -> WsgiResponse:
    """No new stage goes there."""
    found(nodes.get_node, db(), name)
    press(
        lambda session, actor: nodes.cordon(session, actor, name),
        f"{name} is cordoned: it takes no new stage, and what runs there goes on.",
        reconcile=True,
    )
    return redirect(url_for("nodes.show", name=name))


@blueprint.post("/<name>/uncordon")
@permission(Permission.CHANGE_NODES)
def uncordon(name: str) -> WsgiResponse:
    """It takes stages again."""
    found(nodes.get_node, db(), name)
    press(lambda session, actor: nodes.uncordon(session, actor, name), f"{name} takes stages again.", reconcile=True)
    return redirect(url_for("nodes.show", name=name))


@blueprint.post("/<name>/drain")
@permission(Permission.CHANGE_NODES)
def drain(name: str) -> WsgiResponse:
    """It is emptied: running requests end there, nothing new begins."""
    found(nodes.get_node, db(), name)
    press(
        lambda session, actor: nodes.drain(session, actor, name),
        f"{name} drains: running requests finish there, then its groups stop.",
        reconcile=True,
    )
    return redirect(url_for("nodes.show", name=name))
