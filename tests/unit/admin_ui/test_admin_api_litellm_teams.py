"""LiteLLM's teams and users against Hydrant: a team is a tenant, a user a name on keys; what is not held is refused."""

from typing import Any

import pytest
from support.admin_api import Program, audited, last_audit
from support.admin_app import AdminApp
from support.admin_samples import Samples, add_start_cost
from support.registry_rows import current_price, usage_event

from registry.db import session_scope
from registry.ids import now_ms
from registry.models import Model, Tenant
from registry.ops import ledger


@pytest.fixture
def script(admin: AdminApp, samples: Samples) -> Program:
    """A script with an owner's token, as LiteLLM's master key would be."""
    return Program(admin, "owner")


def test_a_team_is_made_with_its_limits_and_budget_and_found_by_the_scripts_own_id(
    script: Program, admin: AdminApp
) -> None:
    made = script.ok("POST", "/team/new", {
        "team_id": "research", "rpm_limit": 60, "tpm_limit": 9000, "max_parallel_requests": 4, "max_budget": 25,
        "budget_duration": "1mo", "models": ["all-proxy-models"], "metadata": {"cost_centre": 7}, "blocked": False,
        "members_with_roles": [{"role": "admin", "user_id": "ada"}],
    })  # fmt: skip
    assert made["team_id"].startswith("ten_")
    assert (made["team_alias"], made["rpm_limit"], made["tpm_limit"]) == ("research", 60, 9000)
    assert (made["max_budget"], made["budget_duration"], made["spend"]) == (25.0, "1mo", 0.0)
    assert last_audit(admin).action == "budget.set"
    key = script.ok("POST", "/key/generate", {"team_id": "research", "user_id": "ada"})
    for named in (made["team_id"], "research"):
        told = script.ok("GET", f"/team/info?team_id={named}")
        assert (told["team_id"], told["team_info"]) == (made["team_id"], made)
        assert [one["token"] for one in told["keys"]] == [key["token"]]
    assert script.ok("GET", "/team/info?team_id=research&key_limit=1")["keys"][0]["user_id"] == "ada"
    assert made in script.ok("GET", "/team/list")
    assert script.refused(409, "POST", "/team/new", {"team_alias": "research"})["param"] == "name"
    script.refused(404, "GET", "/team/info?team_id=none")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("models", ["small"]), ("organization_id", "o"), ("blocked", True), ("team_member_budget", 5), ("tpm_limit", 0),
        ("max_budget", 0), ("budget_duration", "7d"), ("model_aliases", {"a": "b"}), ("no_such_field", 1),
    ],
)  # fmt: skip
def test_a_team_that_would_not_be_held_to_its_word_is_not_made(
    script: Program, admin: AdminApp, field: str, value: Any
) -> None:
    before = audited(admin)
    assert script.refused(400, "POST", "/team/new", {"team_alias": "new", field: value})["param"] == field
    assert audited(admin) == before
    assert "new" not in [team["team_alias"] for team in script.ok("GET", "/team/list")]


def test_a_team_has_one_name(script: Program) -> None:
    assert script.ok("POST", "/team/new", {"team_alias": "new", "team_id": "new"})["team_alias"] == "new"
    for body in ({}, {"team_alias": "a", "team_id": "b"}):
        assert script.refused(400, "POST", "/team/new", body)["param"] == "team_alias"


def test_a_teams_spend_has_its_charges_for_cold_starts_in_it(
    script: Program, admin: AdminApp, samples: Samples
) -> None:
    before = script.ok("GET", f"/team/info?team_id={samples.tenant.id}")["team_info"]
    with session_scope(admin.sessions) as session:
        add_start_cost(session, samples, now_ms())
    after = script.ok("GET", f"/team/info?team_id={samples.tenant.id}")["team_info"]
    charged = before["balance_nusd"] - after["balance_nusd"]
    assert charged > 0
    assert after["spend_nusd"] - before["spend_nusd"] == charged


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
