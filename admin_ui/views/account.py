"""A person's own account: the password."""

from flask import Blueprint, flash, redirect, render_template, url_for
from flask_login import current_user
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import apply
from admin_ui.database import db, session_factory
from admin_ui.forms.auth import PasswordForm
from admin_ui.permissions import SIGNED_IN, permission
from admin_ui.sessions import sign_in
from registry.db import session_scope
from registry.errors import RegistryError
from registry.models import AdminUser
from registry.ops import admins

blueprint = Blueprint("account", __name__, url_prefix="/account")


@blueprint.get("/password")
@permission(SIGNED_IN)
def password() -> str:
    """The form for a new password; where a one-time password leads first."""
    return render_template("account/password.html", form=PasswordForm())


@blueprint.post("/password")
@permission(SIGNED_IN)
def change_password() -> WsgiResponse | tuple[str, int]:
    """Sets a new password. Every other session of this person ends; this one goes on."""
    form = PasswordForm()
    if form.validate():
        with session_scope(session_factory()) as write:
            known = admins.authenticate(write, current_user.email, form.current.data)
        if known is None:
            form.current.errors = ["This is not your present password."]
        else:
            try:
                apply(lambda session, actor: admins.set_password(session, actor, current_user.id, form.password.data))
            except RegistryError as error:
                form.refuse(error)
            else:
                sign_in(db().get_one(AdminUser, current_user.id))
                flash("Your password is changed. Other browsers that were signed in as you must sign in again.", "ok")
                return redirect(url_for("overview.index"))
    return render_template("account/password.html", form=form), 422
