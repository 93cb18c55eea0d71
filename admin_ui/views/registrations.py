"""Registering a model: the form, and the page that follows the reading of its source. It sets prices: for owners."""

from typing import Any

from flask import Blueprint, abort, current_app, redirect, render_template, url_for
from flask_login import current_user
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import announce
from admin_ui.database import db, session_factory
from admin_ui.forms.models import RegisterForm
from admin_ui.permissions import Permission, permission
from admin_ui.registrations import Register, Registrations
from registry.db import session_scope
from registry.errors import RegistryError
from registry.manifest import ManifestDoc
from registry.ops import models
from registry.ops.registration import check_registration

blueprint = Blueprint("registrations", __name__, url_prefix="/models")

STOP_POLLING = 286
"""The status at which htmx shows an answer and asks no more."""


@blueprint.route("/new", methods=["GET", "POST"])
@permission(Permission.CHANGE_MONEY)
def create() -> WsgiResponse | str | tuple[str, int]:
    """Begins to register a model; reading its source goes on behind the page that follows."""
    form = RegisterForm()
    if not form.is_submitted():
        return render_template("models/new.html", form=form)
    if form.validate():
        values = _values(form)
        try:
            check_registration(db(), **values)
        except RegistryError as error:
            form.refuse(error)
            return render_template("models/new.html", form=form), 422
        job = _registrations().begin(values["name"], values["source"], registering(values, current_user.email))
        if job is not None:
            return redirect(url_for("registrations.show", job_id=job.id))
        form.form_errors.append("Two models are being read already; send this again when one of them is done.")
    return render_template("models/new.html", form=form), 422


@blueprint.get("/registrations/<job_id>")
@permission(Permission.CHANGE_MONEY)
def show(job_id: str) -> str:
    """How far the reading has come."""
    job = _registrations().get(job_id)
    if job is None:
        abort(404, "This registration is not known any more. If the model is not in the list, register it again.")
    return render_template("models/registration.html", job=job)


@blueprint.get("/registrations/<job_id>/live")
@permission(Permission.CHANGE_MONEY)
def live(job_id: str) -> tuple[str, int]:
    """The part of that page that refreshes itself, until the job has ended."""
    job = _registrations().get(job_id)
    if job is None:
        abort(404)
    return render_template("models/registration_live.html", job=job), 200 if job.state == "reading" else STOP_POLLING


def _registrations() -> Registrations:
    jobs: Registrations = current_app.extensions["hydrant_registrations"]
    return jobs


def _values(form: RegisterForm) -> dict[str, Any]:
    """What the form says, as the registry takes it."""
    return {
        "name": form.name.data,
        "source": form.source.data.strip(),
        "input_nusd": form.input_nusd.data,
        "cached_input_nusd": form.cached_input_nusd.data,
        "output_nusd": form.output_nusd.data,
        "request_nusd": form.request_nusd.data or 0,
        "gpu_second_nusd": form.gpu_second_nusd.data or 0,
        "settings": form.settings(),
        **form.serving(),
    }


def registering(values: dict[str, Any], actor: str) -> Register:
    """What is to be done with the manifest, in `actor`'s name, long after this request has ended."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    sessions = session_factory()

    def register(manifest: ManifestDoc) -> str:
        with session_scope(sessions) as session:
            model = models.register_model(session, actor, manifest=manifest, **values)
        with app.app_context():
            announce(reconcile=True)
        return model.id

    return register
