"""LiteLLM's key-making scripts against Hydrant: its fields in and out, and an honest no to what nobody would hold."""

from pathlib import Path
from typing import Any

import pytest
from support.admin_api import Program, audited
from support.admin_app import AdminApp
from support.admin_samples import Samples
from support.registry_rows import current_price, usage_event
from support.safetensors_writer import write_model

from registry.db import session_scope
from registry.ids import now_ms
from registry.models import Model, Tenant
from registry.ops import ledger, models, tenants

DAY_MS = 86_400_000


@pytest.fixture
def script(admin: AdminApp, samples: Samples) -> Program:
    """A script with an owner's token, as LiteLLM's master key would be."""
    return Program(admin, "owner")


def test_a_key_is_generated_looked_up_changed_and_deleted(script: Program, samples: Samples) -> None:
    made = script.ok("POST", "/key/generate", {
        "team_id": samples.tenant.id, "key_alias": "ci", "models": ["small"], "duration": "30d", "rpm_limit": 60,
        "tpm_limit": 9000, "max_parallel_requests": 4, "metadata": {"app": "x"}, "user_id": "ada", "max_budget": None,
        "aliases": {}, "config": {}, "spend": 0, "permissions": {}, "key_type": "default",
    })  # fmt: skip
    assert made["key"].startswith("hyd-")
    assert made["key_name"] == made["key"][:13] + "..."
    assert made["token_id"] == made["token"]
    assert (made["models"], made["rpm_limit"], made["tpm_limit"]) == (["smollm2-135m-instruct"], 60, 9000)
    assert made["expires"].endswith("+00:00")
    for named in (made["key"], made["token"]):
        info = script.ok("GET", f"/key/info?key={named}")
        assert info["key"] == named
        assert (info["info"]["key_alias"], info["info"]["spend"], info["info"]["team_id"]) == (
            "ci",
            0.0,
            samples.tenant.id,
        )
    changed = script.ok("POST", "/key/update", {"key": made["key"], "models": [], "rpm_limit": None, "duration": "-1"})
    assert (changed["models"], changed["rpm_limit"], changed["expires"], changed["tpm_limit"]) == ([], None, None, 9000)
    assert script.ok("POST", "/key/delete", {"keys": [made["key"]]}) == {"deleted_keys": [made["key"]]}
    assert script.ok("GET", f"/key/info?key={made['token']}")["info"]["blocked"] is True


def test_a_wrong_secret_with_a_right_prefix_is_no_key(script: Program) -> None:
    made = script.ok("POST", "/key/generate", {"team_id": "Night Shift"})
    wrong = made["key"][:-1] + ("A" if made["key"][-1] != "A" else "B")
    error = script.refused(404, "GET", f"/key/info?key={wrong}")
    assert wrong not in error["message"]


def test_keys_are_deleted_all_or_none(script: Program, admin: AdminApp) -> None:
    one, two = (script.ok("POST", "/key/generate", {"team_id": "Night Shift", "key_alias": "twin"}) for _ in range(2))
    script.refused(404, "POST", "/key/delete", {"keys": [one["token"], "key_none"]})
    assert script.ok("GET", f"/key/info?key={one['token']}")["info"]["blocked"] is False
    assert script.refused(409, "POST", "/key/delete", {"key_aliases": ["twin"]})["param"] == "key_aliases"
    script.ok("POST", "/key/delete", {"keys": [two["token"]]})
    assert script.ok("POST", "/key/delete", {"key_aliases": ["twin"]}) == {"deleted_keys": ["twin"]}
    assert script.refused(400, "POST", "/key/delete", {})["param"] == "keys"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_budget", 10.0), ("budget_duration", "30d"), ("key", "sk-mine"), ("blocked", True), ("guardrails", ["x"]),
        ("model_max_budget", {"gpt-4": 5}), ("aliases", {"a": "b"}), ("allowed_routes", ["/x"]), ("no_such_field", 1),
        ("key_type", "management"), ("duration", "soon"), ("duration", "0d"), ("rpm_limit", 0), ("models", "gpt-4"),
    ],
)  # fmt: skip
def test_what_would_not_be_held_is_refused_by_name(script: Program, admin: AdminApp, field: str, value: Any) -> None:
    before = audited(admin)
    error = script.refused(400, "POST", "/key/generate", {"team_id": "Night Shift", field: value})
    assert error["param"] == field
    assert field in error["message"]
    assert audited(admin) == before


def test_the_only_tenant_needs_no_name(admin: AdminApp) -> None:
    script = Program(admin, "operator")
    assert script.refused(400, "POST", "/key/generate", {})["param"] == "team_id"
    with session_scope(admin.sessions) as session:
        tenant = tenants.create_tenant(session, "test", name="only")
    assert script.ok("POST", "/key/generate", {})["team_id"] == tenant.id
    assert script.ok("POST", "/key/generate", {"models": ["all-team-models"]})["models"] == []


def test_a_model_is_made_told_and_deleted(script: Program, tmp_path: Path) -> None:
    source = str(write_model(tmp_path / "tiny"))
    body = {
        "model_name": "tiny",
        "litellm_params": {"model": source, "input_cost_per_token": 2e-08},
        "model_info": {"output_cost_per_token": 6e-08, "mode": "chat"},
    }
    made = script.ok("POST", "/model/new", body)
    assert made["model_info"]["input_cost_per_token"] == 2e-08
    assert made["model_info"]["output_cost_per_token"] == 6e-08
    every = script.ok("GET", "/v1/model/info")["data"]
    assert every == script.ok("GET", "/model/info")["data"]
    assert [one["model_name"] for one in every] == ["old-llama", "qwen3-8b", "smollm2-135m-instruct", "tiny"]
    only = script.ok("GET", f"/model/info?litellm_model_id={made['model_info']['id']}")["data"]
    assert only == [made]
    assert "deleted" in script.ok("POST", "/model/delete", {"id": made["model_info"]["id"]})["message"]
    script.refused(404, "POST", "/model/delete", {"id": made["model_info"]["id"]})


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"model": "openai/gpt-4o"}, "input_cost_per_token"),
        ({"model": "/x", "input_cost_per_token": 1.5e-10, "output_cost_per_token": 0}, "input_cost_per_token"),
        ({"model": "/x", "input_cost_per_token": -1e-9, "output_cost_per_token": 0}, "input_cost_per_token"),
        ({"model": "/x", "input_cost_per_token": 1e-9}, "output_cost_per_token"),
        ({"model": "ftp://x", "input_cost_per_token": 0, "output_cost_per_token": 0}, "source"),
        ({"model": "/x", "api_base": "http://10.0.0.1", "input_cost_per_token": 0}, "api_base"),
    ],
)
def test_a_model_that_cannot_be_made_says_why(script: Program, params: dict[str, Any], param: str) -> None:
    assert script.refused(400, "POST", "/model/new", {"model_name": "x", "litellm_params": params})["param"] == param


def test_spend_is_told_by_attempt_and_by_day(script: Program, admin: AdminApp, samples: Samples) -> None:
    today = now_ms() // DAY_MS * DAY_MS
    with session_scope(admin.sessions) as session:
        tenant, model = session.get_one(Tenant, samples.tenant.id), session.get_one(Model, samples.model.id)
        price = current_price(session, model)
        old = [today - 40 * DAY_MS, today - 40 * DAY_MS + 5, today - 39 * DAY_MS]
        ledger.settle(session, [usage_event(tenant, model, price, ended_at_ms=at, key_id=samples.key_id) for at in old])
        assert models.get_model(session, model.id)
    rows = script.ok("GET", f"/spend/logs?api_key={samples.key_id}")
    assert [row["spend_nusd"] for row in rows] == [3200, 3200, 3200]
    assert rows[0]["total_tokens"] == 110
    info = script.ok("GET", f"/key/info?key={samples.key_id}")["info"]
    assert (info["spend_nusd"], info["spend"]) == (9600, 9.6e-06)
    first, last = (rows[i]["endTime"][:10] for i in (2, 0))
    days = script.ok("GET", f"/spend/logs?start_date={first}&end_date={last}")
    assert [(day["startTime"], round(day["spend"] * 1e9)) for day in days] == [(first, 6400), (last, 3200)]
    assert days[0]["models"] == {"smollm2-135m-instruct": days[0]["spend"]}
    assert days[0]["keys"] == {samples.key_id: days[0]["spend"]}
    single = script.ok("GET", f"/spend/logs?start_date={first}&end_date={first}&summarize=false")
    assert len(single) == 2
    assert script.refused(400, "GET", "/spend/logs?start_date=2026-02-30")["param"] == "start_date"
    assert script.refused(400, "GET", "/spend/logs?user_id=ada")["param"] == "user_id"
    assert script.refused(400, "GET", "/spend/logs?start_date=2000-01-01&end_date=2026-01-01")["param"] == "start_date"
