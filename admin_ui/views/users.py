"""Accounts of the people who manage Hydrant; for owners only."""

from flask import Blueprint, flash, redirect, render_template, url_for
from flask_login import current_user
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import apply, press, submit
from admin_ui.database import db
from admin_ui.forms.users import RoleForm, UserForm
from admin_ui.permissions import Permission, permission
from admin_ui.views.found import found
from registry.ops import admins

blueprint = Blueprint("users", __name__, url_prefix="/users")


@blueprint.get("")
@permission(Permission.CHANGE_USERS)
def index() -> str:
    """All accounts."""
    return render_template("users/index.html", users=admins.list_admins(db()))


@blueprint.route("/new", methods=["GET", "POST"])
@permission(Permission.CHANGE_USERS)
def create() -> str | tuple[str, int]:
    """A new account; the answer shows its one-time password once."""
    form = UserForm()
    if not form.is_submitted():
        return render_template("users/new.html", form=form)
    made = submit(
        form,
        lambda session, actor: admins.create_admin(session, actor, email=form.email.data, role=form.role.data),
    )
    if made is None:
        return render_template("users/new.html", form=form), 422
    return render_template("users/once.html", user=made[0], one_time=made[1])


@blueprint.get("/<user_id>")
@permission(Permission.CHANGE_USERS)
def show(user_id: str) -> str:
    """One account."""
    user = found(admins.get_admin, db(), user_id)
    return render_template("users/show.html", user=user, form=RoleForm(formdata=None, obj=user))


@blueprint.post("/<user_id>/role")
@permission(Permission.CHANGE_USERS)
def set_role(user_id: str) -> WsgiResponse | tuple[str, int]:
    """Another role, from the next click on."""
    user = found(admins.get_admin, db(), user_id)
    form = RoleForm()
    changed = submit(form, lambda session, actor: admins.set_role(session, actor, user_id, form.role.data))
    if changed is None:
        return render_template("users/show.html", user=user, form=form), 422
    flash(f"{changed.email} is now {changed.role}.", "ok")
    return redirect(url_for("users.show", user_id=user_id))


@blueprint.post("/<user_id>/one-time-password")
@permission(Permission.CHANGE_USERS)
def one_time_password(user_id: str) -> str:
    """A one-time password for someone who forgot theirs; it is shown once and ends their sessions."""
    found(admins.get_admin, db(), user_id)
    user, one_time = apply(lambda session, actor: admins.set_password(session, actor, user_id))
    return render_template("users/once.html", user=user, one_time=one_time)


@blueprint.post("/<user_id>/disable")
@permission(Permission.CHANGE_USERS)
def disable(user_id: str) -> WsgiResponse:
    """Locks the account and ends its sessions."""
    user = found(admins.get_admin, db(), user_id)
    if user.id == current_user.id:
        flash("You cannot disable your own account; ask another owner.", "bad")
    else:
        press(lambda session, actor: admins.set_disabled(session, actor, user_id, True), f"{user.email} is disabled.")
    return redirect(url_for("users.show", user_id=user_id))


@blueprint.post("/<user_id>/enable")
@permission(Permission.CHANGE_USERS)
def enable(user_id: str) -> WsgiResponse:
    """Opens the account again."""
    user = found(admins.get_admin, db(), user_id)
    press(lambda session, actor: admins.set_disabled(session, actor, user_id, False), f"{user.email} is enabled.")
    return redirect(url_for("users.show", user_id=user_id))
