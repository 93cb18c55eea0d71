"""Management tokens, for programs that call /admin/v1; for owners only. A token is shown once, when it is made."""

from flask import Blueprint, current_app, redirect, render_template, url_for
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import press, submit
from admin_ui.database import db
from admin_ui.forms.tokens import TokenForm
from admin_ui.permissions import Permission, permission
from admin_ui.views.found import found
from registry.ids import now_ms
from registry.ops import tokens

blueprint = Blueprint("tokens", __name__, url_prefix="/tokens")


@blueprint.get("")
@permission(Permission.CHANGE_USERS)
def index() -> str:
    """All tokens, newest first."""
    return render_template("tokens/index.html", tokens=tokens.list_tokens(db()), state_of=tokens.state_of)


@blueprint.route("/new", methods=["GET", "POST"])
@permission(Permission.CHANGE_USERS)
def create() -> str | tuple[str, int]:
    """A new token; the answer to the form shows it once."""
    form = TokenForm()
    if not form.is_submitted():
        return render_template("tokens/new.html", form=form)
    made = submit(
        form,
        lambda session, actor: tokens.create_token(
            session,
            actor,
            current_app.config["KEY_PEPPER"],
            name=form.name.data,
            role=form.role.data,
            expires_at_ms=form.expires_at_ms(now_ms()),
        ),
    )
    if made is None:
        return render_template("tokens/new.html", form=form), 422
    gateway_port = current_app.config["GATEWAY_PORT"]
    return render_template("tokens/once.html", token=made[0], plaintext=made[1], gateway_port=gateway_port)


@blueprint.post("/<token_id>/revoke")
@permission(Permission.CHANGE_USERS)
def revoke(token_id: str) -> WsgiResponse:
    """Ends a token at once."""
    token = found(tokens.get_token, db(), token_id)
    press(lambda session, actor: tokens.revoke_token(session, actor, token_id), f"{token.name} is revoked.")
    return redirect(url_for("tokens.index"))
