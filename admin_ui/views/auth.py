"""Signing in and out."""

from flask import Blueprint, abort, redirect, render_template, request, session, url_for
from flask_login import current_user, logout_user
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.database import session_factory
from admin_ui.forms.auth import LoginForm
from admin_ui.permissions import PUBLIC, SIGNED_IN, permission
from admin_ui.sessions import safe_next, sign_in, travels_safely
from registry.db import session_scope
from registry.ops import admins

blueprint = Blueprint("auth", __name__)

WRONG = "This e-mail and password do not belong together, or the account is disabled."


@blueprint.get("/login")
@permission(PUBLIC)
def login() -> WsgiResponse | str:
    """The login page."""
    if current_user.is_authenticated:
        return redirect(url_for("overview.index"))
    return render_template("login.html", form=LoginForm(), insecure=not travels_safely())


@blueprint.post("/login")
@permission(PUBLIC)
def submit_login() -> WsgiResponse | tuple[str, int]:
    """Checks e-mail and password; both being wrong looks the same as either."""
    if not travels_safely():
        abort(403, "Passwords are taken over HTTPS only. Put a TLS proxy in front of this page (docs/operations.md).")
    form = LoginForm()
    if form.validate():
        with session_scope(session_factory()) as write:
            user = admins.authenticate(write, form.email.data, form.password.data)
        if user is not None:
            sign_in(user)
            return redirect(url_for("account.password") if user.must_change else safe_next(request.args.get("next")))
        form.form_errors.append(WRONG)
    return render_template("login.html", form=form, insecure=False), 401


@blueprint.post("/logout")
@permission(SIGNED_IN)
def logout() -> WsgiResponse:
    """Ends this session."""
    logout_user()
    session.clear()
    return redirect(url_for("auth.login"))
