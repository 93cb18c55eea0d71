"""Who may call the management API: roles, wrong tokens, and no cookie."""

from typing import Any

import pytest
from support.admin_api import Program, make_token
from support.admin_app import AdminApp, send
from support.admin_samples import Samples

from admin_ui.api import resources
from admin_ui.api.operation import Operation
from admin_ui.permissions import LOWEST_ROLE, ROLES
from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import ManagementToken
from registry.ops import tokens

OPERATIONS = [(api.prefix, one) for api in resources.APIS for one in api.operations]
# By hand, as in the admin UI: what needs more than a look. All else needs the lowest role.
OWNER = {
    *("top_up", "adjust", "register_model", "show_registration", "set_price", "litellm_new_model"),
    *("set_budget", "remove_budget", "set_policy", "remove_policy", "register_hosted_model", "update_hosted_model"),
}
OPERATOR = {
    *("create_tenant", "update_tenant", "create_key", "update_key", "rotate_key", "revoke_key"),
    *("update_model", "delete_model", "warm_model", "stop_model", "add_alias", "share_alias", "remove_alias"),
    *("cordon_node", "uncordon_node", "drain_node"),
    *("litellm_generate_key", "litellm_update_key", "litellm_delete_keys", "litellm_delete_model"),
    *("litellm_new_team", "litellm_update_team", "litellm_delete_teams"),
    *("litellm_new_user", "litellm_update_user", "litellm_delete_users"),
}


def call(program: Program, prefix: str, one: Operation, body: Any = None) -> Any:
    path = one.path
    for name in one.path_names:
        path = path.replace("{" + name + "}", "made-up")
    return program.send(one.method, prefix + path, body if one.body is None or body is not None else {})


def test_every_operation_needs_the_role_of_the_table() -> None:
    for _prefix, one in OPERATIONS:
        wanted = "owner" if one.name in OWNER else "operator" if one.name in OPERATOR else "viewer"
        assert LOWEST_ROLE[one.wanted] == wanted, one.name
    assert {one.name for _prefix, one in OPERATIONS} >= OWNER | OPERATOR


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_what_it_may_and_nothing_else(admin: AdminApp, role: str) -> None:
    program = Program(admin, role)
    for prefix, one in OPERATIONS:
        answer = call(program, prefix, one)
        allowed = ROLES.index(role) >= ROLES.index(LOWEST_ROLE[one.wanted])
        assert (answer.status_code == 403) is not allowed, one.name
        assert answer.status_code < 500, (one.name, answer.text)
        if not allowed:
            assert answer.json["error"]["type"] == "permission_error"


def test_nothing_is_answered_without_a_live_token(admin: AdminApp, samples: Samples) -> None:
    token_id, revoked = make_token(admin, "owner")
    with session_scope(admin.sessions) as session:
        tokens.revoke_token(session, "test", token_id)
    _, expired = make_token(admin, "owner", expires_at_ms=now_ms() + 60_000)
    with session_scope(admin.sessions) as session:
        session.query(ManagementToken).filter(ManagementToken.expires_at_ms.is_not(None)).one().expires_at_ms = 1
    _, live = make_token(admin, "owner")
    altered = live[:-1] + ("A" if live[-1] != "A" else "B")
    client = admin.client()
    for header in (None, "", "Bearer", f"Bearer {revoked}", f"Bearer {expired}", f"Bearer {altered}", f"Basic {live}",
                   f"Bearer {live[:20]}", "Bearer hyd-abcdefgh-" + "k" * 43, "Bearer \0"):  # fmt: skip
        answer = client.get("/admin/v1/tenants", headers={} if header is None else {"Authorization": header})
        assert answer.status_code == 401, header
        assert answer.json["error"]["code"] == "invalid_token"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/admin/v1/tenants", headers={"Authorization": f"bearer {live}"}).status_code == 200


def test_the_sign_in_of_a_person_opens_nothing_here(admin: AdminApp, samples: Samples) -> None:
    owner = admin.signed_in("owner")
    for prefix, one in OPERATIONS[:15]:
        path = prefix + one.rule.replace("<", "").replace(">", "").replace("path:", "")
        assert owner.open(path, method=one.method, json={}).status_code == 401, one.name
    answer = Program(admin, "viewer").send("GET", "/admin/v1/tenants")
    assert "Set-Cookie" not in answer.headers


def test_wrong_tokens_are_told_to_wait_and_the_right_one_still_passes(admin: AdminApp) -> None:
    program, client = Program(admin, "viewer"), admin.client()
    statuses = [client.get("/admin/v1/nodes", headers={"Authorization": "Bearer x"}).status_code for _ in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    waiting = client.get("/key/info?key=x")
    assert (waiting.status_code, waiting.headers["Retry-After"]) == (429, "60")
    assert waiting.json["error"]["code"] == "rate_limit_exceeded"
    assert program.send("GET", "/admin/v1/nodes").status_code == 200


def test_the_use_of_a_token_is_noted_once_a_minute(admin: AdminApp) -> None:
    program = Program(admin, "viewer")

    def used() -> int | None:
        with read_scope(admin.sessions) as session:
            return tokens.get_token(session, program.token_id).last_used_at_ms

    assert used() is None
    program.ok("GET", "/admin/v1/nodes")
    first = used()
    assert first is not None
    program.ok("GET", "/admin/v1/nodes")
    assert used() == first
    with session_scope(admin.sessions) as session:
        tokens.get_token(session, program.token_id).last_used_at_ms = first - tokens.USE_NOTED_EVERY_MS
    program.ok("GET", "/admin/v1/nodes")
    assert (used() or 0) >= first


def test_what_is_not_there_is_told_as_json(admin: AdminApp) -> None:
    program = Program(admin, "owner")
    assert program.refused(404, "GET", "/admin/v1/nothing")["code"] == "unknown_url"
    assert program.refused(405, "PUT", "/admin/v1/tenants")["code"] == "method_not_allowed"
    assert program.send("PUT", "/admin/v1/tenants").headers["Allow"]
    for path in {one.path for prefix, one in OPERATIONS if not prefix}:
        assert program.refused(404, "GET", f"{path}/nothing")["code"] == "unknown_url"
        assert program.refused(405, "PUT", path)["code"] == "method_not_allowed"
    assert program.refused(413, "POST", "/admin/v1/tenants", b"x" * 1_000_001)["code"] == "request_too_large"
    assert program.refused(400, "GET", "/admin/v1/tenants/%00")["param"] is None
    assert "text/html" in admin.client().get("/nothing").content_type


def test_a_person_makes_and_revokes_a_token_on_its_page(admin: AdminApp) -> None:
    owner = admin.signed_in("owner")
    assert "No tokens yet" in owner.get("/tokens").text
    page = send(owner, "/tokens/new", {"name": "deploy", "role": "operator", "expires": "90"}).text
    plaintext = page.split('id="new-token" readonly value="')[1].split('"')[0]
    bearer = {"Authorization": f"Bearer {plaintext}"}
    assert admin.client().get("/admin/v1/tenants", headers=bearer).status_code == 200
    listed = owner.get("/tokens").text
    assert "deploy" in listed
    assert plaintext not in listed + owner.get("/audit").text
    with read_scope(admin.sessions) as session:
        (row,) = tokens.list_tokens(session)
        assert row.created_by == "owner@example.org"
    send(owner, f"/tokens/{row.id}/revoke")
    assert admin.client().get("/admin/v1/tenants", headers=bearer).status_code == 401
    assert send(owner, "/tokens/new", {"name": "", "role": "operator", "expires": ""}).status_code == 422
