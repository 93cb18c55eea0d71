"""Which role may call which view: every view of the app is in the table, or the test says which one is missing."""

import pytest
from flask import Flask
from flask.testing import FlaskClient
from support.admin_app import AdminApp, csrf_token

from admin_ui.api.authentication import TOKEN_BLUEPRINTS
from admin_ui.permissions import ROLES, check_all_marked

PUBLIC, ANYONE, VIEWER, OPERATOR, OWNER = "public", "anyone signed in", "viewer", "operator", "owner"

TABLE = {
    "GET /static/<path:filename>": PUBLIC,
    "GET /health": PUBLIC,
    "GET /admin/v1/openapi.json": PUBLIC,
    "GET /login": PUBLIC,
    "POST /login": PUBLIC,
    "POST /logout": ANYONE,
    "GET /account/password": ANYONE,
    "POST /account/password": ANYONE,
    "GET /": VIEWER,
    "GET /overview/live": VIEWER,
    "GET /overview/day": VIEWER,
    "GET /models": VIEWER,
    "GET /models/<model_id>": VIEWER,
    "GET /models/<model_id>/live": VIEWER,
    "GET /models/<model_id>/why": VIEWER,
    "GET /models/cold-starts/<cold_start_id>": VIEWER,
    "GET /nodes": VIEWER,
    "GET /nodes/<name>": VIEWER,
    "GET /tenants": VIEWER,
    "GET /tenants/<tenant_id>": VIEWER,
    "GET /tenants/<tenant_id>/invoices": VIEWER,
    "GET /tenants/<tenant_id>/invoices/<month>": VIEWER,
    "GET /tenants/<tenant_id>/invoices/<month>.json": VIEWER,
    "GET /tenants/<tenant_id>/invoices/<month>.csv": VIEWER,
    "GET /keys": VIEWER,
    "GET /keys/<key_id>": VIEWER,
    "GET /usage": VIEWER,
    "GET /usage/export.csv": VIEWER,
    "GET /ledger": VIEWER,
    "GET /ledger/export.csv": VIEWER,
    "GET /audit": VIEWER,
    "GET /models/new": OWNER,
    "POST /models/new": OWNER,
    "GET /models/registrations/<job_id>": OWNER,
    "GET /models/registrations/<job_id>/live": OWNER,
    "GET /models/<model_id>/edit": OPERATOR,
    "GET /models/<model_id>/hosted": OWNER,
    "POST /models/<model_id>/hosted": OWNER,
    "GET /keys/<key_id>/edit": OPERATOR,
    "POST /keys/<key_id>/edit": OPERATOR,
    "POST /models/<model_id>/edit": OPERATOR,
    "POST /models/<model_id>/warm": OPERATOR,
    "POST /models/<model_id>/stop": OPERATOR,
    "POST /models/<model_id>/enable": OPERATOR,
    "POST /models/<model_id>/disable": OPERATOR,
    "POST /models/<model_id>/delete": OPERATOR,
    "POST /models/<model_id>/aliases": OPERATOR,
    "GET /aliases/<path:alias>": OPERATOR,
    "POST /aliases/<path:alias>": OPERATOR,
    "POST /models/<model_id>/aliases/<path:alias>/remove": OPERATOR,
    "POST /nodes/<name>/cordon": OPERATOR,
    "POST /nodes/<name>/uncordon": OPERATOR,
    "POST /nodes/<name>/drain": OPERATOR,
    "GET /tenants/new": OPERATOR,
    "POST /tenants/new": OPERATOR,
    "POST /tenants/<tenant_id>/limits": OPERATOR,
    "POST /tenants/<tenant_id>/enable": OPERATOR,
    "POST /tenants/<tenant_id>/disable": OPERATOR,
    "POST /budgets/<scope_id>": OWNER,
    "POST /budgets/<scope_id>/<period>/remove": OWNER,
    "GET /keys/new": OPERATOR,
    "POST /keys/new": OPERATOR,
    "POST /keys/<key_id>/rotate": OPERATOR,
    "POST /keys/<key_id>/revoke": OPERATOR,
    "GET /models/<model_id>/price": OWNER,
    "POST /models/<model_id>/price": OWNER,
    "GET /models/hosted/new": OWNER,
    "POST /models/hosted/new": OWNER,
    "GET /models/<model_id>/policies": OWNER,
    "POST /models/<model_id>/policies": OWNER,
    "POST /models/<model_id>/policies/remove": OWNER,
    "POST /tenants/<tenant_id>/money": OWNER,
    "GET /tokens": OWNER,
    "GET /tokens/new": OWNER,
    "POST /tokens/new": OWNER,
    "POST /tokens/<token_id>/revoke": OWNER,
    "GET /users": OWNER,
    "GET /users/new": OWNER,
    "POST /users/new": OWNER,
    "GET /users/<user_id>": OWNER,
    "POST /users/<user_id>/role": OWNER,
    "POST /users/<user_id>/one-time-password": OWNER,
    "POST /users/<user_id>/disable": OWNER,
    "POST /users/<user_id>/enable": OWNER,
}


def test_the_table_has_every_view(admin: AdminApp) -> None:
    views = {
        f"{method} {rule.rule}"
        for rule in admin.app.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] not in TOKEN_BLUEPRINTS  # test_admin_api_access.py
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert views == set(TABLE)


def call(client: FlaskClient, action: str, token: str) -> int:
    """The status of `action`, sent with a valid token and made-up ids: a view that runs answers 404, 422 or better."""
    method, rule = action.split(" ")
    path = "/".join("made-up" if part.startswith("<") else part for part in rule.split("/"))
    return client.open(path, method=method, data={"csrf_token": token} if method == "POST" else None).status_code


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_what_the_table_says_and_nothing_else(admin: AdminApp, role: str) -> None:
    client = admin.signed_in(role)
    token = csrf_token(client)
    allowed = ROLES[: ROLES.index(role) + 1]
    wrong = {}
    for action, lowest in TABLE.items():
        if action in ("POST /logout", "POST /login"):
            continue
        status = call(client, action, token)
        if (status == 403) is (lowest in (PUBLIC, ANYONE) or lowest in allowed):
            wrong[action] = status
        assert status < 500, action
    assert wrong == {}


def test_nobody_gets_anywhere_without_signing_in(admin: AdminApp) -> None:
    client = admin.client()
    token = csrf_token(client)
    statuses = {action: call(client, action, token) for action, lowest in TABLE.items() if lowest != PUBLIC}
    assert set(statuses.values()) == {302}, statuses


def test_a_changed_role_holds_from_the_next_click(admin: AdminApp) -> None:
    viewer, owner = admin.signed_in("viewer"), admin.signed_in("owner")
    assert viewer.get("/tenants/new").status_code == 403
    users = owner.get("/users").text
    user_id = users.split(">viewer@example.org<")[0].rsplit("/users/", 1)[1].rstrip('"')
    answer = owner.post(f"/users/{user_id}/role", data={"csrf_token": csrf_token(owner), "role": "operator"})
    assert answer.status_code == 302
    assert viewer.get("/tenants/new").status_code == 200


def test_buttons_that_a_role_may_not_use_are_not_shown(admin: AdminApp) -> None:
    assert "/tenants/new" in admin.signed_in("operator").get("/tenants").text
    assert "/tenants/new" not in admin.signed_in("viewer").get("/tenants").text
    assert ">Users<" not in admin.signed_in("operator").get("/").text


def test_an_app_with_a_view_that_names_no_permission_does_not_start() -> None:
    app = Flask("careless")
    app.add_url_rule("/open", "open", lambda: "anyone can read this")
    with pytest.raises(RuntimeError, match="names no permission"):
        check_all_marked(app)
