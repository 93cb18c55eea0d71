"""LiteLLM's users against Hydrant: a user is a name on keys, and what it may do and spend is its keys'."""

from typing import Any

import pytest
from sqlalchemy import select
from support.admin_api import Program, audited, last_audit
from support.admin_app import AdminApp
from support.admin_samples import Samples
from support.registry_rows import current_price, usage_event

from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import ApiKey, Audit, Model, Tenant
from registry.ops import ledger


@pytest.fixture
def script(admin: AdminApp, samples: Samples) -> Program:
    """A script with an owner's token, as LiteLLM's master key would be."""
    return Program(admin, "owner")


def test_a_user_is_a_name_on_keys(script: Program, admin: AdminApp, samples: Samples) -> None:
    made = script.ok("POST", "/user/new", {
        "user_id": "ada", "user_email": "ada@example.org", "user_role": "internal_user", "teams": ["Night Shift"],
        "max_budget": 5, "models": ["small"],
    })  # fmt: skip
    assert made["key"].startswith("hyd-")
    assert (made["user_id"], made["max_budget"], made["models"]) == ("ada", 5.0, ["smollm2-135m-instruct"])
    assert last_audit(admin).action == "budget.set"
    other = script.ok("POST", "/key/generate", {"team_id": samples.tenant.id, "user_id": "ada"})
    with session_scope(admin.sessions) as session:
        tenant, model = session.get_one(Tenant, samples.tenant.id), session.get_one(Model, samples.model.id)
        event = usage_event(tenant, model, current_price(session, model), key_id=other["token"])
        assert not ledger.settle(session, [event]).rejected
    told = script.ok("GET", "/user/info?user_id=ada")
    assert [key["token"] for key in told["keys"]] == [other["token"], made["token"]]
    assert told["teams"] == sorted({other["team_id"], made["team_id"]})
    assert told["user_info"] == {"user_id": "ada", "spend": 3.2e-06, "spend_nusd": 3200}
    script.ok("POST", "/key/update", {"key": made["key"], "user_id": "bo"})
    assert [key["token"] for key in script.ok("GET", "/user/info?user_id=bo")["keys"]] == [made["token"]]
    successor = script.ok("POST", f"/admin/v1/keys/{made['token']}/rotate", {})["key"]["key_id"]
    assert successor in [key["token"] for key in script.ok("GET", "/user/info?user_id=bo")["keys"]]
    script.refused(404, "GET", "/user/info?user_id=nobody")


def test_a_user_without_a_key_is_nothing_but_its_name(script: Program, admin: AdminApp) -> None:
    before = audited(admin)
    made = script.ok("POST", "/user/new", {"auto_create_key": False, "user_email": "ada@example.org", "models": []})
    assert made == {"user_id": made["user_id"], "key": None}
    assert made["user_id"].startswith("usr_")
    error = script.refused(400, "POST", "/user/new", {"auto_create_key": False, "max_budget": 5})
    assert error["param"] == "max_budget"
    assert audited(admin) == before


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"user_role": "proxy_admin"}, "user_role"),
        ({"teams": ["Night Shift", "another"]}, "teams"),
        ({"team_id": "Night Shift", "teams": [{"team_id": "another"}]}, "teams"),
        ({"teams": [7]}, "teams"),
        ({"teams": ["none"]}, "tenant"),
        ({"password": "p"}, "password"),
        ({"user_id": "a\nb", "teams": ["Night Shift"]}, "user_id"),
        ({}, "teams"),
    ],
)
def test_a_user_that_would_be_something_else_is_refused(
    script: Program, admin: AdminApp, body: dict[str, Any], param: str
) -> None:
    before = audited(admin)
    answer = script.send("POST", "/user/new", body)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json["error"]["param"] == param
    assert audited(admin) == before


def make(script: Program, user_id: str, team: str = "Night Shift", **fields: Any) -> str:
    """A key of a user; its token."""
    token: str = script.ok("POST", "/key/generate", {"team_id": team, "user_id": user_id, **fields})["token"]
    return token


def key_of(script: Program, token: str) -> dict[str, Any]:
    """What `/key/info` tells of it."""
    info: dict[str, Any] = script.ok("GET", f"/key/info?key={token}")["info"]
    return info


def listed(script: Program, query: str = "") -> list[str]:
    """Names of the users that `/user/list` tells."""
    return [user["user_id"] for user in script.ok("GET", f"/user/list{query}")["users"]]


def test_a_users_one_key_is_changed_and_what_is_not_sent_stays(script: Program, admin: AdminApp) -> None:
    token = make(script, "ada", models=["small"], rpm_limit=60, tpm_limit=9000, key_alias="hers")
    changed = script.ok("POST", "/user/update", {
        "user_id": "ada", "rpm_limit": None, "max_parallel_requests": 4, "max_budget": 5, "budget_duration": "1mo",
        "models": [], "user_role": "internal_user", "user_email": "ada@example.org", "user_alias": "Ada",
        "metadata": {"a": 1}, "spend": None, "key_alias": None, "teams": None, "aliases": {},
    })  # fmt: skip
    assert set(changed) == {"user_id", "data", "keys"}
    assert (changed["user_id"], changed["data"]) == ("ada", script.ok("GET", "/user/info?user_id=ada")["user_info"])
    (key,) = changed["keys"]
    assert key == key_of(script, token)
    assert (key["rpm_limit"], key["tpm_limit"], key["max_parallel_requests"]) == (None, 9000, 4)
    assert (key["max_budget"], key["budget_duration"], key["key_alias"]) == (5.0, "1mo", "hers")
    assert key["models"] == ["smollm2-135m-instruct"], "an empty list says nothing here, as in LiteLLM"
    assert last_audit(admin).action == "budget.set"
    (key,) = script.ok("POST", "/user/update", {"user_id": "ada", "models": ["all-proxy-models"]})["keys"]
    assert (key["models"], key["max_budget"]) == ([], 5.0)
    assert (last_audit(admin).action, last_audit(admin).subject) == ("key.update", token)


def test_the_key_that_is_left_of_a_users_is_changed(script: Program, admin: AdminApp) -> None:
    ended, expired, live = (make(script, "ada", duration="30d") for _ in range(3))
    error = script.refused(409, "POST", "/user/update", {"user_id": "ada", "rpm_limit": 5})
    assert error["param"] == "rpm_limit"
    assert "/key/update" in error["message"]
    script.ok("POST", "/key/delete", {"keys": [ended]})
    with session_scope(admin.sessions) as session:
        session.get_one(ApiKey, expired).expires_at_ms = now_ms() - 1
    (key,) = script.ok("POST", "/user/update", {"user_id": "ada", "rpm_limit": 5})["keys"]
    assert (key["token"], key["rpm_limit"]) == (live, 5)
    assert key_of(script, expired)["rpm_limit"] is None
    script.ok("POST", "/key/delete", {"keys": [live]})
    for body in ({"max_budget": 5}, {"models": ["small"]}, {"budget_duration": None}):
        error = script.refused(409, "POST", "/user/update", {"user_id": "ada", **body})
        assert error["param"] in body
        assert "/key/generate" in error["message"]


def test_an_update_that_asks_for_nothing_changes_nothing(script: Program, admin: AdminApp) -> None:
    make(script, "ada")
    make(script, "ada")
    before = audited(admin)
    for body in (
        {},
        {"user_email": "a@example.org", "user_role": "internal_user_viewer", "models": [], "blocked": False},
    ):
        assert script.ok("POST", "/user/update", {"user_id": "ada", **body})["keys"] == []
    assert audited(admin) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_role", "proxy_admin"), ("password", "p"), ("spend", 0), ("spend", 5), ("blocked", True),
        ("teams", ["Night Shift"]), ("team_id", "Night Shift"), ("key_alias", "mine"), ("duration", "30d"),
        ("rpm_limit", 0), ("max_budget", 0), ("budget_duration", "7d"), ("model_max_budget", {"m": 1}),
        ("object_permission", {"agents": ["a"]}), ("organizations", ["o"]), ("models", "small"), ("no_such_field", 1),
    ],
)  # fmt: skip
def test_a_user_that_would_not_be_held_to_its_change_is_not_changed(
    script: Program, admin: AdminApp, field: str, value: Any
) -> None:
    token = make(script, "ada", max_budget=5)
    before = key_of(script, token), audited(admin)
    # Beside something that can be done: all or nothing.
    body = {"user_id": "ada", "tpm_limit": 7, "max_budget": 6, field: value}
    assert script.refused(400, "POST", "/user/update", body)["param"] == field
    assert (key_of(script, token), audited(admin)) == before


def test_a_user_that_is_not_there_is_neither_changed_nor_made(script: Program, admin: AdminApp) -> None:
    before = audited(admin)
    assert script.refused(400, "POST", "/user/update", {"user_email": "a@example.org"})["param"] == "user_id"
    for body in ({}, {"rpm_limit": 5}):
        assert script.refused(404, "POST", "/user/update", {"user_id": "nobody", **body})["param"] == "user_id"
    assert script.refused(404, "POST", "/user/update", {"user_id": "ada", "models": ["none"]})["param"] == "user_id"
    assert audited(admin) == before


def test_only_an_owner_changes_a_users_budget(script: Program, admin: AdminApp) -> None:
    operator = Program(admin, "operator")
    token, before = make(operator, "ada", max_budget=1), audited(admin)
    error = operator.refused(403, "POST", "/user/update", {"user_id": "ada", "rpm_limit": 5, "max_budget": 9})
    assert (error["type"], error["param"]) == ("permission_error", "max_budget")
    assert audited(admin) == before
    operator.ok("POST", "/user/update", {"user_id": "ada", "rpm_limit": 5})
    assert (key_of(script, token)["max_budget"], key_of(script, token)["rpm_limit"]) == (1.0, 5)


def test_a_deleted_user_has_no_key_left_and_its_spend_stays(script: Program, admin: AdminApp, samples: Samples) -> None:
    ended, here, there = make(script, "ada"), make(script, "ada"), make(script, "ada", team=samples.tenant.id)
    other = make(script, "bo")
    script.ok("POST", "/key/delete", {"keys": [ended]})
    with session_scope(admin.sessions) as session:
        tenant, model = session.get_one(Tenant, samples.tenant.id), session.get_one(Model, samples.model.id)
        event = usage_event(tenant, model, current_price(session, model), key_id=there)
        assert not ledger.settle(session, [event]).rejected
    before = audited(admin)
    assert script.ok("POST", "/user/delete", {"user_ids": ["ada"]}) == 1
    with read_scope(admin.sessions) as session:
        rows = session.scalars(select(Audit).order_by(Audit.id).offset(before)).all()
        assert sorted((row.action, row.subject) for row in rows) == [
            ("key.revoke", key) for key in sorted([here, there])
        ]
    assert [key_of(script, token)["blocked"] for token in (here, there, other)] == [True, True, False]
    told = script.ok("GET", "/user/info?user_id=ada")
    assert (told["user_info"]["spend_nusd"], len(told["keys"])) == (3200, 3)
    assert listed(script) == ["bo"]
    # Again: there is nothing left to do. A new key is a new beginning.
    before = audited(admin)
    assert script.ok("POST", "/user/delete", {"user_ids": ["ada", "ada"]}) == 1
    assert audited(admin) == before
    make(script, "ada")
    assert listed(script) == ["ada", "bo"]


def test_users_are_deleted_all_or_none(script: Program, admin: AdminApp) -> None:
    tokens = [make(script, "ada"), make(script, "bo")]
    before = audited(admin)
    for names in (["ada", "nobody"], ["nobody", "bo"]):
        error = script.refused(404, "POST", "/user/delete", {"user_ids": names})
        assert error["param"] == "user_ids"
        assert "'nobody'" in error["message"]
    assert [key_of(script, token)["blocked"] for token in tokens] == [False, False]
    assert audited(admin) == before
    assert script.ok("POST", "/user/delete", {"user_ids": ["ada", "bo"]}) == 2
    assert [key_of(script, token)["blocked"] for token in tokens] == [True, True]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "user_ids"), ({"user_ids": []}, "user_ids"), ({"user_ids": "ada"}, "user_ids"),
        ({"user_ids": ["ada", ""]}, "user_ids.1"), ({"user_ids": [7]}, "user_ids.0"),
        ({"user_ids": ["ada"], "organization_id": "o"}, "organization_id"),
    ],
)  # fmt: skip
def test_a_deletion_that_cannot_be_read_deletes_no_user(
    script: Program, admin: AdminApp, body: dict[str, Any], param: str
) -> None:
    token, before = make(script, "ada"), audited(admin)
    assert script.refused(400, "POST", "/user/delete", body)["param"] == param
    assert key_of(script, token)["blocked"] is False
    assert audited(admin) == before


def test_users_are_listed_in_pages_with_what_their_keys_have_spent(
    script: Program, admin: AdminApp, samples: Samples
) -> None:
    night_shift = script.ok("GET", "/admin/v1/tenants/Night Shift")["tenant"]["tenant_id"]
    assert script.ok("GET", "/user/list") == {"users": [], "total": 0, "page": 1, "page_size": 25, "total_pages": 0}
    ended, live = make(script, "bo"), make(script, "bo", team=samples.tenant.id)
    for user_id in ("ada", "bo", "cleo"):
        make(script, user_id)
    with session_scope(admin.sessions) as session:
        tenant, model = session.get_one(Tenant, samples.tenant.id), session.get_one(Model, samples.model.id)
        price = current_price(session, model)
        events = [usage_event(tenant, model, price, key_id=key, attempt_id=f"att_{key}") for key in (ended, live)]
        assert not ledger.settle(session, events).rejected
    script.ok("POST", "/key/delete", {"keys": [ended]})
    told = script.ok("GET", "/user/list")
    assert (told["total"], told["page"], told["page_size"], told["total_pages"]) == (3, 1, 25, 1)
    assert told["users"] == [
        {"user_id": "ada", "spend": 0.0, "spend_nusd": 0, "key_count": 1, "teams": [night_shift]},
        {"user_id": "bo", "spend": 6.4e-06, "spend_nusd": 6400, "key_count": 2,
         "teams": sorted([night_shift, samples.tenant.id])},
        {"user_id": "cleo", "spend": 0.0, "spend_nusd": 0, "key_count": 1, "teams": [night_shift]},
    ]  # fmt: skip
    first, second = (script.ok("GET", f"/user/list?page_size=2&page={page}") for page in (1, 2))
    assert [[user["user_id"] for user in page["users"]] for page in (first, second)] == [["ada", "bo"], ["cleo"]]
    assert (second["total"], second["total_pages"]) == (3, 2)
    assert listed(script, f"?page={2**53}") == []
    assert listed(script, "?user_ids=cleo, ada,nobody") == ["ada", "cleo"]
    assert listed(script, "?user_ids=a") == []
    assert listed(script, f"?team={samples.tenant.id}") == ["bo"]
    assert listed(script, "?team=Night Shift&user_ids=bo") == ["bo"]


def test_a_user_is_listed_for_as_long_as_a_key_has_not_ended(script: Program, admin: AdminApp) -> None:
    token = make(script, "ada")
    assert listed(script) == ["ada"]
    script.ok("POST", f"/admin/v1/keys/{token}/rotate", {})
    assert listed(script) == ["ada"]
    with session_scope(admin.sessions) as session:
        for key in session.scalars(select(ApiKey).where(ApiKey.user_id == "ada")):
            key.expires_at_ms = now_ms() - 1
    assert listed(script) == []
    assert script.ok("GET", "/user/info?user_id=ada")["user_id"] == "ada"


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("page=0", 400, "page"), ("page=x", 400, "page"), (f"page={2**53 + 1}", 400, "page"),
        ("page_size=101", 400, "page_size"), ("user_ids=", 400, "user_ids"), ("role=proxy_admin", 400, "role"),
        ("user_email=a", 400, "user_email"), ("sort_by=spend", 400, "sort_by"), ("team=none", 404, "tenant"),
    ],
)  # fmt: skip
def test_a_list_that_would_hold_other_users_is_refused(script: Program, query: str, status: int, param: str) -> None:
    assert script.refused(status, "GET", f"/user/list?{query}")["param"] == param
