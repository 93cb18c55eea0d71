"""Tenants: create, limits, balance, lock out."""

from typing import Any

from flask import Blueprint, flash, redirect, render_template, url_for
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import press, submit
from admin_ui.database import db
from admin_ui.formats import dollars
from admin_ui.forms.budgets import BudgetForm
from admin_ui.forms.hosted_models import WHEN_COLD
from admin_ui.forms.tenants import MoneyForm, TenantForm
from admin_ui.permissions import Permission, permission
from admin_ui.read.budgets import budgets_of, key_budgets
from admin_ui.read.tenants import tenant_rows
from admin_ui.views.found import found
from registry.documents.cold_policies import policy_document
from registry.ids import now_ms
from registry.models import Tenant
from registry.ops import keys, money, tenants
from registry.ops.budgets import list_alerts, owner_names
from registry.ops.cold_policies import list_policies
from registry.ops.usage import list_ledger

blueprint = Blueprint("tenants", __name__, url_prefix="/tenants")

RECENT_ENTRIES = 10


@blueprint.get("")
@permission(Permission.SEE)
def index() -> str:
    """All tenants."""
    return render_template("tenants/index.html", rows=tenant_rows(db(), now_ms()))


@blueprint.route("/new", methods=["GET", "POST"])
@permission(Permission.CHANGE_TENANTS)
def create() -> WsgiResponse | str | tuple[str, int]:
    """A new tenant."""
    form = TenantForm()
    if not form.is_submitted():
        return render_template("tenants/new.html", form=form)
    tenant = submit(
        form,
        lambda session, actor: tenants.create_tenant(session, actor, **_given(form)),
        # Without one, gateways would say that balances are still being loaded.
        balance_of=lambda made: made.id,
    )
    if tenant is None:
        return render_template("tenants/new.html", form=form), 422
    flash(f"{tenant.name} is created. Next: top up its balance, then create a key.", "ok")
    return redirect(url_for("tenants.show", tenant_id=tenant.id))


@blueprint.get("/<tenant_id>")
@permission(Permission.SEE)
def show(tenant_id: str) -> str:
    """One tenant: limits, balance, keys, its last ledger entries."""
    return _page(found(tenants.get_tenant, db(), tenant_id))


@blueprint.post("/<tenant_id>/limits")
@permission(Permission.CHANGE_TENANTS)
def update(tenant_id: str) -> WsgiResponse | tuple[str, int]:
    """Changes name and limits."""
    tenant = found(tenants.get_tenant, db(), tenant_id)
    form = TenantForm()
    changed = submit(
        form,
        lambda session, actor: tenants.update_tenant(session, actor, tenant_id, **_given(form)),
    )
    if changed is None:
        return _page(tenant, limits=form), 422
    flash("The limits are changed and hold from the next request on.", "ok")
    return redirect(url_for("tenants.show", tenant_id=tenant_id))


@blueprint.post("/<tenant_id>/money")
@permission(Permission.CHANGE_MONEY)
def enter_money(tenant_id: str) -> WsgiResponse | tuple[str, int]:
    """Tops up, or adjusts downwards for a negative amount."""
    tenant = found(tenants.get_tenant, db(), tenant_id)
    form = MoneyForm()
    entry = submit(
        form,
        lambda session, actor: (money.adjust if form.amount.data < 0 else money.top_up)(
            session, actor, tenant_id, form.amount.data, form.reason.data
        ),
        balance_of=lambda _entry: tenant_id,
    )
    if entry is None:
        return _page(tenant, top_up=form), 422
    flash(f"Entered {dollars(entry.amount_nusd)} for {tenant.name}.", "ok")
    return redirect(url_for("tenants.show", tenant_id=tenant_id))


@blueprint.post("/<tenant_id>/enable")
@permission(Permission.CHANGE_TENANTS)
def enable(tenant_id: str) -> WsgiResponse:
    """Lets the tenant in again."""
    found(tenants.get_tenant, db(), tenant_id)
    press(lambda session, actor: tenants.set_enabled(session, actor, tenant_id, True), "The tenant is enabled.")
    return redirect(url_for("tenants.show", tenant_id=tenant_id))


@blueprint.post("/<tenant_id>/disable")
@permission(Permission.CHANGE_TENANTS)
def disable(tenant_id: str) -> WsgiResponse:
    """Locks the tenant out; its keys stop working."""
    found(tenants.get_tenant, db(), tenant_id)
    press(lambda session, actor: tenants.set_enabled(session, actor, tenant_id, False), "The tenant is disabled.")
    return redirect(url_for("tenants.show", tenant_id=tenant_id))


def _given(form: TenantForm) -> dict[str, Any]:
    fields = (form.name, form.service_class, form.rpm, form.tpm, form.parallel)
    return {field.name: field.data for field in fields}


def _page(tenant: Tenant, *, limits: TenantForm | None = None, top_up: MoneyForm | None = None) -> str:
    keys_ = keys.list_keys(db(), tenant.id)
    alerts = list_alerts(db(), tenant_id=tenant.id)
    return render_template(
        "tenants/show.html",
        tenant=tenant,
        balance=money.balance_nusd(db(), tenant.id),
        keys=keys_,
        entries=list_ledger(db(), tenant_id=tenant.id, limit=RECENT_ENTRIES),
        limits=limits or TenantForm(formdata=None, obj=tenant),
        money_form=top_up or MoneyForm(formdata=None),
        budgets=budgets_of(db(), tenant.id, tenant.id, now_ms()),
        key_budgets=key_budgets(db(), tenant.id, keys_, now_ms()),
        budget_form=BudgetForm(formdata=None),
        alerts=alerts,
        owner_names=owner_names(db(), [(row.tenant_id, row.scope_id) for row in alerts]),
        policies=[(row.model_id, policy_document(db(), row)) for row in list_policies(db(), tenant_id=tenant.id)],
        when_cold=WHEN_COLD,
        now_ms=now_ms(),
    )
