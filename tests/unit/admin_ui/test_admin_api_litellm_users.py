"""LiteLLM's users against Hydrant: a user is a name on keys, and what it may do and spend is its keys'."""

from typing import Any

import pytest
from support.admin_api import Program, audited, last_audit
from support.admin_app import AdminApp
from support.admin_samples import Samples
from support.registry_rows import current_price, usage_event

from registry.db import session_scope
from registry.models import Model, Tenant
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
        ({}, "team_id"),
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
