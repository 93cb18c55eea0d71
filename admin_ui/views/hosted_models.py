"""Models of hosted providers, and policies for cold models. Both set what tenants pay: for owners."""

from flask import Blueprint, abort, current_app, flash, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import press, submit
from admin_ui.database import db
from admin_ui.forms.hosted_models import WHEN_COLD, EditHostedForm, HostedForm, PolicyForm
from admin_ui.permissions import Permission, permission
from admin_ui.read.cluster import models_without_manifests
from admin_ui.views.found import found
from registry.models import Model
from registry.ops import cold_policies, models, tenants
from registry.ops.hosted_models import register_hosted, update_hosted

blueprint = Blueprint("hosted_models", __name__, url_prefix="/models")


@blueprint.route("/hosted/new", methods=["GET", "POST"])
@permission(Permission.CHANGE_MONEY)
def create() -> WsgiResponse | str | tuple[str, int]:
    """Adds a model that a provider serves."""
    form = HostedForm()
    if not form.is_submitted():
        return render_template("models/new_hosted.html", form=form)
    allow_http: bool = current_app.config["PROVIDER_HTTP"]
    added = submit(
        form,
        lambda session, actor: register_hosted(
            session,
            actor,
            name=form.name.data,
            **form.provider(),
            input_nusd=form.input_nusd.data,
            cached_input_nusd=form.cached_input_nusd.data,
            output_nusd=form.output_nusd.data,
            request_nusd=form.request_nusd.data or 0,
            context_length=form.context_length.data,
            default_max_tokens=form.default_max_tokens.data,
            embedding=form.embedding.data,
            allow_http=allow_http,
        ),
    )
    if added is None:
        return render_template("models/new_hosted.html", form=form), 422
    flash(f"{added.name} is added. The hosted process needs {form.key_env.data} in its environment.", "ok")
    return redirect(url_for("models.show", model_id=added.id))


@blueprint.route("/<model_id>/hosted", methods=["GET", "POST"])
@permission(Permission.CHANGE_MONEY)
def edit(model_id: str) -> WsgiResponse | str | tuple[str, int]:
    """Changes who serves it, and its bounds."""
    model = found(models.get_model, db(), model_id)
    if model.provider is None:
        abort(404)
    form = EditHostedForm()
    if not form.is_submitted():
        return render_template("models/edit_hosted.html", model=model, form=EditHostedForm.of(model))
    allow_http: bool = current_app.config["PROVIDER_HTTP"]

    def do(session: Session, actor: str) -> Model:
        bounds = {"context_length": form.context_length.data, "allow_http": allow_http}
        update_hosted(session, actor, model_id, **bounds, **form.provider())
        own = {"name": form.name.data, "default_max_tokens": form.default_max_tokens.data}
        return models.update_model(session, actor, model_id, **own)

    if submit(form, do) is None:
        return render_template("models/edit_hosted.html", model=model, form=form), 422
    flash("Saved; it holds for requests from now on.", "ok")
    return redirect(url_for("models.show", model_id=model_id))


@blueprint.route("/<model_id>/policies", methods=["GET", "POST"])
@permission(Permission.CHANGE_MONEY)
def policies(model_id: str) -> WsgiResponse | str | tuple[str, int]:
    """What becomes of requests while the model is cold."""
    model = found(models.get_model, db(), model_id)
    named = {tenant.id: tenant.name for tenant in tenants.list_tenants(db())}
    hosted = {
        row.id: row.name
        for row in models_without_manifests(db())
        if row.lane == "hosted" and not row.settings.get("embedding")
    }
    rows = cold_policies.list_policies(db(), model_id)
    everyone = "All others" if any(row.tenant_id for row in rows) else "All tenants"
    form = PolicyForm().offer(everyone, named.items(), hosted.items())
    status = 200
    if form.is_submitted():
        changed = submit(
            form,
            lambda session, actor: cold_policies.set_policy(
                session,
                actor,
                model_id,
                tenant_id=form.tenant_id.data or None,
                mode=form.mode.data,
                fallback_model_id=form.fallback_model_id.data or None,
                after_s=form.after_s.data or 0,
            ),
        )
        if changed is not None:
            flash("Saved; it holds for requests from now on.", "ok")
            return redirect(url_for("hosted_models.policies", model_id=model_id))
        status = 422
    page = render_template(
        "models/policies.html",
        model=model,
        form=form,
        rows=rows,
        everyone=everyone,
        tenants=named,
        hosted=hosted,
        when_cold=WHEN_COLD,
    )
    return page, status


@blueprint.post("/<model_id>/policies/remove")
@permission(Permission.CHANGE_MONEY)
def remove_policy(model_id: str) -> WsgiResponse:
    """Takes one away: `tenant_id` of the query, or the one of all others."""
    found(models.get_model, db(), model_id)
    tenant_id = request.args.get("tenant_id") or None
    press(
        lambda session, actor: cold_policies.remove_policy(session, actor, model_id, tenant_id=tenant_id),
        "The policy is removed.",
    )
    return redirect(url_for("hosted_models.policies", model_id=model_id))
