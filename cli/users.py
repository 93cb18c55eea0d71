"""`hydrant user`: people who may use the admin UI."""

from typing import TYPE_CHECKING, Any

import click

from cli.command import Group, reporting
from cli.console import Console, table
from cli.units import moment

if TYPE_CHECKING:
    from registry.models import AdminUser

_ROLE = click.Choice(["owner", "operator", "viewer"])


@click.group(
    cls=Group,
    examples=[
        "hydrant user create ada@example.org --role operator    prints a one-time password",
        "hydrant user reset-password ada@example.org",
        "hydrant user disable ada@example.org",
    ],
)
def user() -> None:
    """People who may use the admin UI: owners may do all, operators change models and nodes, viewers look."""


@user.command(examples=["hydrant user create ada@example.org --role operator"])
@click.argument("email")
@click.option("--role", type=_ROLE, required=True, help="What the account may do.")
@reporting
def create(console: Console, email: str, role: str) -> None:
    """Add an account and print a one-time password, which must be changed at the first login."""
    from cli.workspace import Workspace
    from registry.ops import admins

    with Workspace(console) as here:
        row, password = here.change(
            lambda session, actor: admins.create_admin(session, actor, email=email, role=role), publish=False
        )
    _show_once(console, row, password)


@user.command("list", examples=["hydrant user list"])
@reporting
def list_(console: Console) -> None:
    """All accounts."""
    from cli.workspace import Workspace
    from registry.ops import admins

    with Workspace(console) as here, here.read() as session:
        documents = [_document(row) for row in admins.list_admins(session)]
    rows = [
        (d["email"], d["role"], d["enabled"], d["must_change_password"], moment(d["last_login_at_ms"]))
        for d in documents
    ]
    lines = table(("EMAIL", "ROLE", "ENABLED", "MUST CHANGE", "LAST LOGIN (UTC)"), rows)
    console.show(
        {"users": documents}, lines if rows else ["no account yet; add one: hydrant user create EMAIL --role owner"]
    )


@user.command("set-role", examples=["hydrant user set-role ada@example.org owner"])
@click.argument("email")
@click.argument("role", type=_ROLE)
@reporting
def set_role(console: Console, email: str, role: str) -> None:
    """Change what an account may do. The last owner stays one."""
    from cli.workspace import Workspace
    from registry.ops import admins

    with Workspace(console) as here:
        row = here.change(
            lambda session, actor: admins.set_role(session, actor, admins.find_admin(session, email).id, role),
            publish=False,
        )
    console.show({"user": _document(row)}, [f"{row.email} is {row.role} now"])


@user.command(examples=["hydrant user disable ada@example.org"])
@click.argument("email")
@reporting
def disable(console: Console, email: str) -> None:
    """Lock an account; its sessions end at once. The last owner cannot be locked."""
    _set_disabled(console, email, True)


@user.command(examples=["hydrant user enable ada@example.org"])
@click.argument("email")
@reporting
def enable(console: Console, email: str) -> None:
    """Open a locked account again."""
    _set_disabled(console, email, False)


@user.command("reset-password", examples=["hydrant user reset-password ada@example.org"])
@click.argument("email")
@reporting
def reset_password(console: Console, email: str) -> None:
    """Print a new one-time password; the old one and all sessions of the account end at once."""
    from cli.workspace import Workspace
    from registry.ops import admins

    with Workspace(console) as here:
        row, password = here.change(
            lambda session, actor: admins.set_password(session, actor, admins.find_admin(session, email).id),
            publish=False,
        )
    _show_once(console, row, password)


def _set_disabled(console: Console, email: str, disabled: bool) -> None:
    from cli.workspace import Workspace
    from registry.ops import admins

    with Workspace(console) as here:
        row = here.change(
            lambda session, actor: admins.set_disabled(session, actor, admins.find_admin(session, email).id, disabled),
            publish=False,
        )
    console.show({"user": _document(row)}, [f"{row.email} is {'locked' if disabled else 'open again'}"])


def _show_once(console: Console, row: "AdminUser", password: str | None) -> None:
    if not console.as_json:
        console.note(f"{row.email} ({row.role}): this one-time password is shown now and never again")
    console.show({"user": _document(row), "one_time_password": password}, [password or ""])


def _document(row: "AdminUser") -> dict[str, Any]:
    return {
        "user_id": row.id,
        "email": row.email,
        "role": row.role,
        "enabled": row.disabled_at_ms is None,
        "must_change_password": row.must_change,
        "created_at_ms": row.created_at_ms,
        "last_login_at_ms": row.last_login_at_ms,
    }
