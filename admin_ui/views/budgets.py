"""Budgets of tenants and keys: set and removed on their pages."""

from flask import Blueprint, flash, redirect, url_for
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import press, submit
from admin_ui.database import db
from admin_ui.formats import dollars
from admin_ui.forms.budgets import PERIODS, BudgetForm
from admin_ui.permissions import Permission, permission
from admin_ui.views.found import found
from registry.ops import budgets, keys, tenants

blueprint = Blueprint("budgets", __name__, url_prefix="/budgets")


@blueprint.post("/<scope_id>")
@permission(Permission.CHANGE_MONEY)
def set_(scope_id: str) -> WsgiResponse:
    """Sets or changes the budget of one period."""
    page = _page_of(scope_id)
    form = BudgetForm()
    made = submit(
        form,
        lambda session, actor: budgets.set_budget(
            session,
            actor,
            scope_id,
            form.period.data,
            amount_nusd=form.budget_amount.data,
            alert_percent=form.percents(),
            hard=form.hard.data,
        ),
        balance_of=lambda budget: budget.tenant_id,
    )
    if made is None:
        for messages in form.errors.values():
            flash("The budget is not set. " + " ".join(messages), "bad")
    else:
        flash(f"The budget ({PERIODS[made.period].lower()}) is {dollars(made.amount_nusd)}.", "ok")
    return redirect(page)


@blueprint.post("/<scope_id>/<period>/remove")
@permission(Permission.CHANGE_MONEY)
def remove(scope_id: str, period: str) -> WsgiResponse:
    """Takes a budget away."""
    page = _page_of(scope_id)
    press(
        lambda session, actor: budgets.remove_budget(session, actor, scope_id, period),
        "The budget is removed.",
    )
    return redirect(page)


def _page_of(scope_id: str) -> str:
    """The page of the tenant or key with this id; 404 when there is none."""
    if scope_id.startswith("key_"):
        return url_for("keys.show", key_id=found(keys.get_key, db(), scope_id).id)
    return url_for("tenants.show", tenant_id=found(tenants.get_tenant, db(), scope_id).id)
