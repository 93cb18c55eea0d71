"""Aliases that several models share: a canary beside the model that it may replace."""

from flask import Blueprint, flash, redirect, render_template, url_for
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import submit
from admin_ui.database import db
from admin_ui.forms.models import SplitForm
from admin_ui.permissions import Permission, permission
from admin_ui.views.found import found
from registry.ops import aliases

blueprint = Blueprint("aliases", __name__, url_prefix="/aliases")


@blueprint.route("/<path:alias>", methods=["GET", "POST"])
@permission(Permission.CHANGE_MODELS)
def split(alias: str) -> str | tuple[str, int] | WsgiResponse:
    """The models behind an alias and their weights, as lines that can be changed."""
    weights = aliases.weights(found(aliases.get_alias, db(), alias))
    form = SplitForm(data={"weights": weights})
    if not form.is_submitted():
        return render_template("models/split.html", alias=alias, form=form)
    done = submit(form, lambda session, actor: aliases.set_split(session, actor, alias, form.weights.data))
    if done is None:
        return render_template("models/split.html", alias=alias, form=form), 422
    flash(f"Requests for {alias} are shared as you say.", "ok")
    return redirect(url_for("models.show", model_id=done.targets[0].model_id))
