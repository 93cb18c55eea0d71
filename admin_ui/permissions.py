"""Who may do what: three roles, each allowed all that the one before it is.

Every view names the permission it needs with `@permission(...)`, and one hook checks it before the view runs. A view
without a permission keeps the app from starting, so nothing is open by oversight.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from flask import Flask

View = TypeVar("View", bound=Callable[..., object])

ROLES = ("viewer", "operator", "owner")

PUBLIC = "public"
"""Needs no login: the login page, static files, the health check."""
SIGNED_IN = "signed_in"
"""Any signed-in person, even one who must first change the one-time password."""


class Permission(StrEnum):
    """What a signed-in person may be allowed to do."""

    SEE = "see"
    CHANGE_MODELS = "change_models"
    CHANGE_NODES = "change_nodes"
    CHANGE_TENANTS = "change_tenants"
    CHANGE_KEYS = "change_keys"
    CHANGE_MONEY = "change_money"
    CHANGE_USERS = "change_users"


LOWEST_ROLE: dict[Permission, str] = {
    Permission.SEE: "viewer",
    Permission.CHANGE_MODELS: "operator",
    Permission.CHANGE_NODES: "operator",
    Permission.CHANGE_TENANTS: "operator",
    Permission.CHANGE_KEYS: "operator",
    Permission.CHANGE_MONEY: "owner",
    Permission.CHANGE_USERS: "owner",
}


def allows(role: str, wanted: Permission) -> bool:
    """Whether `role` may do `wanted`; an unknown role may do nothing."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(LOWEST_ROLE[wanted])


def permission(wanted: Permission | str) -> Callable[[View], View]:
    """Marks a view with the permission it needs: a Permission, PUBLIC or SIGNED_IN."""

    def mark(view: View) -> View:
        view.needs_permission = wanted  # type: ignore[attr-defined]
        return view

    return mark


def needed(app: Flask, endpoint: str) -> Permission | str:
    """The permission that `endpoint` was marked with; RuntimeError when its author forgot it."""
    if endpoint == "static":
        return PUBLIC
    wanted = getattr(app.view_functions[endpoint], "needs_permission", None)
    if wanted is None:
        raise RuntimeError(f"the view {endpoint!r} names no permission: decorate it with @permission(...)")
    return wanted  # type: ignore[no-any-return]


def check_all_marked(app: Flask) -> None:
    """RuntimeError for the first view that names no permission."""
    for endpoint in app.view_functions:
        needed(app, endpoint)
