"""LiteLLM's teams against Hydrant: a team is a tenant; what is not held is refused, and a deleted team's books stay."""

from typing import Any

import pytest
from sqlalchemy import func, select
from support.admin_api import Program, audited, last_audit
from support.admin_app import PEPPER, AdminApp
from support.admin_samples import Samples, add_start_cost
from support.registry_rows import current_price, usage_event

from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import ApiKey, Audit, LedgerEntry, Model, Tenant, Usage
from registry.ops import ledger
from registry.snapshot import key_digest


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


def actions(admin: AdminApp, after: int) -> list[tuple[str, str]]:
    """What the audit log has beyond its first `after` entries: actions and their subjects."""
    with read_scope(admin.sessions) as session:
        rows = session.scalars(select(Audit).order_by(Audit.id).offset(after)).all()
        return [(row.action, row.subject) for row in rows]


def test_a_team_is_changed_and_what_is_not_sent_stays(script: Program, admin: AdminApp) -> None:
    team = script.ok("POST", "/team/new", {"team_alias": "research", "rpm_limit": 60, "tpm_limit": 9000})["team_id"]
    before = audited(admin)
    changed = script.ok("POST", "/team/update", {
        "team_id": "research", "team_alias": "lab", "rpm_limit": None, "max_parallel_requests": 4, "max_budget": 25,
        "budget_duration": "1mo", "models": [], "metadata": {"cost_centre": 7}, "tags": ["a"], "blocked": False,
        "organization_id": None, "model_aliases": {}, "guardrails": [],
    })  # fmt: skip
    assert set(changed) == {"team_id", "data"}
    assert changed["team_id"] == team
    data = changed["data"]
    assert (data["team_alias"], data["rpm_limit"], data["tpm_limit"]) == ("lab", None, 9000)
    assert (data["max_parallel_requests"], data["max_budget"], data["budget_duration"]) == (4, 25.0, "1mo")
    assert data["blocked"] is False
    assert script.ok("GET", "/team/info?team_id=lab")["team_info"] == data
    assert actions(admin, before) == [("tenant.update", team), ("budget.set", team)]
    assert script.ok("POST", "/team/update", {"team_id": team, "max_budget": 30})["data"]["budget_duration"] == "1mo"
    assert script.ok("POST", "/team/update", {"team_id": team, "max_budget": None})["data"]["max_budget"] is None
    script.refused(404, "GET", "/team/info?team_id=research")


def test_a_team_is_locked_out_and_let_in(script: Program, admin: AdminApp, samples: Samples) -> None:
    team, before = samples.tenant.id, audited(admin)
    for blocked in (True, True, False, False, None):
        told = script.ok("POST", "/team/update", {"team_id": team, "blocked": blocked})["data"]
        assert told["blocked"] is bool(blocked)
        assert script.ok("GET", f"/admin/v1/tenants/{team}")["tenant"]["enabled"] is not bool(blocked)
    assert actions(admin, before) == [("tenant.disable", team), ("tenant.enable", team)]


def test_a_change_that_asks_for_nothing_changes_nothing(script: Program, admin: AdminApp, samples: Samples) -> None:
    before = script.ok("GET", f"/team/info?team_id={samples.tenant.id}")["team_info"], audited(admin)
    for body in ({}, {"metadata": {"a": 1}, "team_alias": None, "models": ["all-proxy-models"], "admins": ["ada"]}):
        changed = script.ok("POST", "/team/update", {"team_id": samples.tenant.id, **body})
        assert (changed["data"], audited(admin)) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("models", ["small"]), ("organization_id", "o"), ("team_member_budget", 5), ("team_member_rpm_limit", 5),
        ("tpm_limit", 0), ("rpm_limit", "60"), ("max_budget", 0), ("max_budget", -1), ("budget_duration", "7d"),
        ("soft_budget", 33.3), ("model_aliases", {"a": "b"}), ("guardrails", ["x"]), ("blocked", "yes"),
        ("tpd_limit", 5), ("model_max_budget", {"m": {"max_budget": 1}}), ("access_group_ids", ["g"]),
        ("team_alias", ""), ("no_such_field", 1),
    ],
)  # fmt: skip
def test_a_team_that_would_not_be_held_to_its_change_is_not_changed(
    script: Program, admin: AdminApp, samples: Samples, field: str, value: Any
) -> None:
    path = f"/team/info?team_id={samples.tenant.id}"
    script.ok("POST", "/team/update", {"team_id": samples.tenant.id, "max_budget": 50})
    before = script.ok("GET", path)["team_info"], audited(admin)
    # Beside something that can be done: all or nothing.
    body = {"team_id": samples.tenant.id, "rpm_limit": 7, "max_budget": 60, "blocked": True, field: value}
    assert script.refused(400, "POST", "/team/update", body)["param"] == field
    assert (script.ok("GET", path)["team_info"], audited(admin)) == before


def test_a_team_that_is_not_there_or_whose_new_name_is_taken_is_not_changed(script: Program, admin: AdminApp) -> None:
    script.ok("POST", "/team/new", {"team_alias": "research"})
    before = audited(admin)
    assert script.refused(400, "POST", "/team/update", {"rpm_limit": 5})["param"] == "team_id"
    assert "'none'" in script.refused(404, "POST", "/team/update", {"team_id": "none", "rpm_limit": 5})["message"]
    body = {"team_id": "research", "team_alias": "Night Shift", "blocked": True}
    assert script.refused(409, "POST", "/team/update", body)["param"] == "name"
    assert script.ok("GET", "/team/info?team_id=research")["team_info"]["blocked"] is False
    assert audited(admin) == before


def test_only_an_owner_changes_a_teams_budget(script: Program, admin: AdminApp) -> None:
    operator = Program(admin, "operator")
    operator.ok("POST", "/team/new", {"team_alias": "research", "max_budget": 1})
    before = audited(admin)
    body = {"team_id": "research", "rpm_limit": 5, "max_budget": None}
    error = operator.refused(403, "POST", "/team/update", body)
    assert (error["type"], error["param"]) == ("permission_error", "max_budget")
    assert audited(admin) == before
    del body["max_budget"]
    assert operator.ok("POST", "/team/update", body)["data"]["max_budget"] == 1.0
    assert script.ok("POST", "/team/update", {**body, "max_budget": None})["data"]["max_budget"] is None


def test_several_budgets_of_a_team_are_changed_elsewhere(script: Program, samples: Samples) -> None:
    for period in ("day", "month"):
        script.ok("PUT", f"/admin/v1/budgets/{samples.tenant.id}/{period}", {"amount_usd": "1"})
    error = script.refused(409, "POST", "/team/update", {"team_id": samples.tenant.id, "max_budget": 5})
    assert error["param"] == "max_budget"
    assert "/admin/v1/budgets" in error["message"]


def test_a_deleted_team_is_locked_out_without_keys_and_its_books_stay(
    script: Program, admin: AdminApp, samples: Samples
) -> None:
    team = samples.tenant.id
    for name in ("ended", "over", "live"):
        script.ok("POST", "/key/generate", {"team_id": team, "key_alias": name, "duration": "30d"})
    script.ok("POST", "/key/delete", {"key_aliases": ["ended"]})
    with session_scope(admin.sessions) as session:
        session.scalars(select(ApiKey).where(ApiKey.name == "over")).one().expires_at_ms = now_ms() - 1
        live = [key.id for key in session.scalars(select(ApiKey).where(ApiKey.tenant_id == team))
                if key.name not in ("ended", "over") and key.revoked_at_ms is None]  # fmt: skip
    others = script.ok("GET", "/team/info?team_id=Night Shift")
    books, before = counted(admin), audited(admin)
    info = script.ok("GET", f"/team/info?team_id={team}")["team_info"]
    assert len(live) >= 2
    assert info["balance_nusd"] != 0

    assert script.ok("POST", "/team/delete", {"team_ids": [team]}) == {"deleted_teams": [team]}
    assert actions(admin, before)[0] == ("tenant.disable", team)
    assert sorted(actions(admin, before)[1:]) == [("key.revoke", key) for key in sorted(live)]
    told = script.ok("GET", f"/team/info?team_id={team}")
    assert told["team_info"] == {**info, "blocked": True}
    assert {key["token"] for key in told["keys"] if key["blocked"]} >= set(live)
    assert script.ok("GET", "/team/info?team_id=Night Shift") == others
    assert counted(admin) == books

    # Again: there is nothing left to do. Its name stays its own, and it can be let in again, with new keys.
    before = audited(admin)
    script.ok("POST", "/team/delete", {"team_ids": [info["team_alias"]]})
    assert audited(admin) == before
    script.refused(409, "POST", "/team/new", {"team_alias": info["team_alias"]})
    script.ok("POST", "/team/update", {"team_id": team, "blocked": False})
    again = script.ok("GET", f"/team/info?team_id={team}")
    assert (again["team_info"], again["keys"]) == (info, told["keys"])


def test_what_was_under_way_when_a_team_was_deleted_is_billed(
    script: Program, admin: AdminApp, samples: Samples
) -> None:
    before = script.ok("GET", f"/team/info?team_id={samples.tenant.id}")["team_info"]
    script.ok("POST", "/team/delete", {"team_ids": [samples.tenant.id]})
    with session_scope(admin.sessions) as session:
        tenant, model = session.get_one(Tenant, samples.tenant.id), session.get_one(Model, samples.model.id)
        event = usage_event(tenant, model, current_price(session, model), key_id=samples.key_id)
        assert not ledger.settle(session, [event]).rejected
    after = script.ok("GET", f"/team/info?team_id={samples.tenant.id}")["team_info"]
    assert after["spend_nusd"] - before["spend_nusd"] == before["balance_nusd"] - after["balance_nusd"] == 3200


def counted(admin: AdminApp) -> tuple[int, int, int]:
    """How many rows the ledger, usage and keys have."""
    with read_scope(admin.sessions) as session:
        entries, usage, keys = (
            int(session.scalar(select(func.count()).select_from(table)) or 0) for table in (LedgerEntry, Usage, ApiKey)
        )
        return entries, usage, keys


def test_teams_are_deleted_all_or_none(script: Program, admin: AdminApp, samples: Samples) -> None:
    before = audited(admin)
    for named in ([samples.tenant.id, "none"], ["none", samples.tenant.id]):
        assert "'none'" in script.refused(404, "POST", "/team/delete", {"team_ids": named})["message"]
    assert script.ok("GET", f"/team/info?team_id={samples.tenant.id}")["team_info"]["blocked"] is False
    assert audited(admin) == before
    named = ["Night Shift", samples.tenant.id, "Night Shift"]
    assert script.ok("POST", "/team/delete", {"team_ids": named})["deleted_teams"] == named
    assert [script.ok("GET", f"/team/info?team_id={one}")["team_info"]["blocked"] for one in named] == [True] * 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "team_ids"), ({"team_ids": []}, "team_ids"), ({"team_ids": None}, "team_ids"),
        ({"team_ids": "Night Shift"}, "team_ids"), ({"team_ids": ["Night Shift", 7]}, "team_ids.1"),
        ({"team_ids": ["a"] * 1001}, "team_ids"), ({"team_ids": ["Night Shift"], "force": True}, "force"),
    ],
)  # fmt: skip
def test_a_deletion_that_cannot_be_read_deletes_nothing(
    script: Program, admin: AdminApp, samples: Samples, body: dict[str, Any], param: str
) -> None:
    before = audited(admin)
    assert script.refused(400, "POST", "/team/delete", body)["param"] == param
    assert audited(admin) == before


def test_gateways_learn_at_once_that_a_team_is_gone(admin_with_redis: AdminApp) -> None:
    script = Program(admin_with_redis, "operator")
    script.ok("POST", "/team/new", {"team_alias": "research"})
    digest = key_digest(PEPPER, script.ok("POST", "/key/generate", {"team_id": "research"})["key"]).encode()

    def known() -> bool:
        return digest in admin_with_redis.app.extensions["hydrant_redis"].get("hyd:snapshot")

    assert known()
    answer = script.send("POST", "/team/delete", {"team_ids": ["research"]})
    assert "X-Hydrant-Warning" not in answer.headers
    assert not known()
