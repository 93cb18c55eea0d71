"""Invoices: a tenant's months, each as a page to print, as JSON and as CSV."""

from typing import Any

from flask import Blueprint, Response, abort, jsonify, render_template

from admin_ui.database import db
from admin_ui.downloads import csv_download
from admin_ui.permissions import Permission, permission
from admin_ui.read.invoices import lines_to_read
from admin_ui.views.found import found
from registry.errors import InvalidError
from registry.ids import now_ms
from registry.ops import tenants
from registry.ops.invoices import invoice, months, to_csv

blueprint = Blueprint("invoices", __name__, url_prefix="/tenants/<tenant_id>/invoices")


@blueprint.get("")
@permission(Permission.SEE)
def index(tenant_id: str) -> str:
    """The months of which there is an invoice."""
    tenant = found(tenants.get_tenant, db(), tenant_id)
    return render_template("invoices/index.html", tenant=tenant, months=months(db(), tenant_id, now_ms()))


@blueprint.get("/<month>")
@permission(Permission.SEE)
def show(tenant_id: str, month: str) -> str:
    """One invoice, to read and to print."""
    document = _invoice(tenant_id, month)
    return render_template("invoices/show.html", invoice=document, usage=lines_to_read(document["usage"]))


@blueprint.get("/<month>.json")
@permission(Permission.SEE)
def as_json(tenant_id: str, month: str) -> Response:
    """The same as JSON."""
    return jsonify(_invoice(tenant_id, month))


@blueprint.get("/<month>.csv")
@permission(Permission.SEE)
def as_csv(tenant_id: str, month: str) -> Response:
    """The same as CSV."""
    return csv_download(f"hydrant-invoice-{month}", iter([to_csv(_invoice(tenant_id, month))]))


def _invoice(tenant_id: str, month: str) -> dict[str, Any]:
    found(tenants.get_tenant, db(), tenant_id)
    try:
        return invoice(db(), tenant_id, month)
    except InvalidError:
        abort(404)
