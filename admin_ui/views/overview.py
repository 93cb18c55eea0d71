"""The overview: what runs where, right now. It refreshes itself."""

from flask import Blueprint, render_template

from admin_ui.changes import redis_client, redis_is_up
from admin_ui.database import db
from admin_ui.permissions import Permission, permission
from admin_ui.read.cluster import living_groups, models_without_manifests, node_views, recent_cold_starts
from admin_ui.read.demand import demand, start_states
from admin_ui.read.usage import DAY_MS
from orchestrator.lifecycle import SERVING
from registry.ids import now_ms
from registry.ops import budgets
from registry.ops.usage import UsageFilter, usage_totals

blueprint = Blueprint("overview", __name__)


@blueprint.get("/")
@permission(Permission.SEE)
def index() -> str:
    """The whole page."""
    return render_template("overview/index.html", **_now(), **_day())


@blueprint.get("/overview/live")
@permission(Permission.SEE)
def live() -> str:
    """The part that refreshes itself every other second."""
    return render_template("overview/live.html", **_now())


@blueprint.get("/overview/day")
@permission(Permission.SEE)
def day() -> str:
    """The part that refreshes itself every minute: its sums read a day of usage."""
    return render_template("overview/day.html", **_day())


def _now() -> dict[str, object]:
    now = now_ms()
    models = models_without_manifests(db())
    groups = living_groups(db())
    up = redis_is_up()
    return {
        "now_ms": now,
        "models": models,
        "nodes": node_views(db(), now),
        "groups": groups,
        "serving": {group.model_id for group in groups if group.state in SERVING},
        "cold_starts": recent_cold_starts(db()),
        "demand": demand(redis_client(), [model.name for model in models], now) if up else {},
        "start_states": start_states(redis_client()) if up else {},
    }


def _day() -> dict[str, object]:
    alerts = budgets.list_alerts(db(), limit=5)
    return {
        "today": usage_totals(db(), UsageFilter(from_ms=now_ms() - DAY_MS)),
        "budget_alerts": alerts,
        "owner_names": budgets.owner_names(db(), [(row.tenant_id, row.scope_id) for row in alerts]),
    }
