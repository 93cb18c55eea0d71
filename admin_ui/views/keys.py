"""API keys: create, change, rotate, revoke. A key is shown in the answer that made it and never again."""

from typing import TypeVar

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import press, submit
from admin_ui.database import db
from admin_ui.forms.budgets import BudgetForm
from admin_ui.forms.keys import EditKeyForm, KeyFields, KeyForm, RotateForm
from admin_ui.permissions import Permission, permission
from admin_ui.read.budgets import budgets_of
from admin_ui.read.cluster import models_without_manifests
from admin_ui.views.found import found
from registry.ids import now_ms
from registry.models import ApiKey
from registry.ops import keys, tenants

AnyKeyForm = TypeVar("AnyKeyForm", bound=KeyFields)

blueprint = Blueprint("keys", __name__, url_prefix="/keys")


@blueprint.get("")
@permission(Permission.SEE)
def index() -> str:
    """All keys, newest first."""
    names = {tenant.id: tenant.name for tenant in tenants.list_tenants(db())}
    return render_template("keys/index.html", keys=keys.list_keys(db()), tenant_names=names, now_ms=now_ms())


@blueprint.route("/new", methods=["GET", "POST"])
@permission(Permission.CHANGE_KEYS)
def create() -> str | tuple[str, int]:
    """A new key; the answer to the form shows it once."""
    form = _key_form()
    if not form.is_submitted():
        form.tenant_id.data = request.args.get("tenant")
        return render_template("keys/new.html", form=form)
    made = submit(
        form,
        lambda session, actor: keys.create_key(
            session,
            actor,
            current_app.config["KEY_PEPPER"],
            tenant_id=form.tenant_id.data,
            name=form.name.data,
            models=form.permitted(),
            expires_at_ms=form.expires_at_ms(now_ms()),
            rpm=form.rpm.data,
            tpm=form.tpm.data,
            parallel=form.parallel.data,
            sse_ping=form.sse_ping.data,
            defaults=form.defaults.data,
            ceilings=form.ceilings.data,
        ),
    )
    if made is None:
        return render_template("keys/new.html", form=form), 422
    return _show_once(*made)


@blueprint.get("/<key_id>")
@permission(Permission.SEE)
def show(key_id: str) -> str:
    """One key: what it may do, and the buttons that end it."""
    return _page(found(keys.get_key, db(), key_id), RotateForm(formdata=None))


@blueprint.route("/<key_id>/edit", methods=["GET", "POST"])
@permission(Permission.CHANGE_KEYS)
def edit(key_id: str) -> WsgiResponse | str | tuple[str, int]:
    """Changes what the key may do."""
    key = found(keys.get_key, db(), key_id)
    form = _with_models(EditKeyForm())
    if not form.is_submitted():
        return render_template("keys/edit.html", key=key, form=_with_models(EditKeyForm.of(key)))
    changed = submit(form, lambda session, actor: keys.update_key(session, actor, key_id, **form.changes(now_ms())))
    if changed is None:
        return render_template("keys/edit.html", key=key, form=form), 422
    flash("Saved; gateways know of it within a second.", "ok")
    return redirect(url_for("keys.show", key_id=key_id))


@blueprint.post("/<key_id>/rotate")
@permission(Permission.CHANGE_KEYS)
def rotate(key_id: str) -> str | tuple[str, int]:
    """A new key in place of this one; the answer shows it once."""
    key = found(keys.get_key, db(), key_id)
    form = RotateForm()
    made = submit(
        form,
        lambda session, actor: keys.rotate_key(
            session, actor, current_app.config["KEY_PEPPER"], key_id, overlap_s=int(form.overlap_s.data)
        ),
    )
    if made is None:
        return _page(key, form), 422
    return _show_once(*made)


@blueprint.post("/<key_id>/revoke")
@permission(Permission.CHANGE_KEYS)
def revoke(key_id: str) -> WsgiResponse:
    """Ends the key on every gateway."""
    found(keys.get_key, db(), key_id)
    press(lambda session, actor: keys.revoke_key(session, actor, key_id), "The key is revoked on every gateway.")
    return redirect(url_for("keys.show", key_id=key_id))


def _key_form() -> KeyForm:
    form = KeyForm()
    form.tenant_id.choices = {tenant.id: tenant.name for tenant in tenants.list_tenants(db())}
    return _with_models(form)


def _with_models(form: AnyKeyForm) -> AnyKeyForm:
    form.models.choices = {model.name: model.name for model in models_without_manifests(db())}
    return form


def _page(key: ApiKey, form: RotateForm) -> str:
    tenant = tenants.get_tenant(db(), key.tenant_id)
    return render_template(
        "keys/show.html",
        key=key,
        tenant=tenant,
        rotate_form=form,
        budgets=budgets_of(db(), tenant.id, key.id, now_ms()),
        budget_form=BudgetForm(formdata=None),
        now_ms=now_ms(),
    )


def _show_once(key: ApiKey, plaintext: str) -> str:
    tenant = tenants.get_tenant(db(), key.tenant_id)
    return render_template(
        "keys/once.html",
        key=key,
        tenant=tenant,
        plaintext=plaintext,
        example_model=_example_model(key),
        gateway_port=current_app.config["GATEWAY_PORT"],
    )


def _example_model(key: ApiKey) -> str:
    """A model that the key may ask to chat: one of ours if there is any, since a provider's may lack its key."""
    usable = [
        model
        for model in models_without_manifests(db())
        if model.enabled and not model.settings.get("embedding") and (key.models == ["*"] or model.name in key.models)
    ]
    usable.sort(key=lambda model: model.lane == "hosted")
    return usable[0].name if usable else "MODEL"
