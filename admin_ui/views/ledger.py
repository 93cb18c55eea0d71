"""The ledger: every movement of money, append-only."""

from flask import Blueprint, Response, render_template, request

from admin_ui.database import db
from admin_ui.downloads import csv_download
from admin_ui.forms.filters import LedgerFilterForm, chosen, whole_number
from admin_ui.permissions import Permission, permission
from admin_ui.read.ledger import ledger_page
from registry.ops import money, reconciliations, tenants
from registry.ops.ledger import list_rejected
from registry.ops.usage import ledger_csv

blueprint = Blueprint("ledger", __name__, url_prefix="/ledger")

REJECTED_SHOWN = 99
"""More than these are counted as so many and more."""


@blueprint.get("")
@permission(Permission.SEE)
def index() -> str:
    """Entries, newest first."""
    form = _form()
    tenant_id = form.tenant.data or None
    entries, before = ledger_page(
        db(), tenant_id=tenant_id, kind=form.kind.data or None, before=whole_number(request.args, "before")
    )
    return render_template(
        "ledger/index.html",
        form=form,
        entries=entries,
        before=before,
        tenant_names=form.tenant.choices,
        balance=money.balance_nusd(db(), tenant_id) if tenant_id else None,
        query=chosen(form),
        rejected=len(list_rejected(db(), limit=REJECTED_SHOWN + 1)),
        rejected_shown=REJECTED_SHOWN,
        reconciled=reconciliations.last(db()),
    )


@blueprint.get("/export.csv")
@permission(Permission.SEE)
def export() -> Response:
    """The ledger of one tenant or all as a CSV file, every kind, oldest first."""
    return csv_download("hydrant-ledger", ledger_csv(db(), _form().tenant.data or None))


def _form() -> LedgerFilterForm:
    return LedgerFilterForm.from_query(
        request.args,
        tenant={"": "All tenants"} | {tenant.id: tenant.name for tenant in tenants.list_tenants(db())},
    )
