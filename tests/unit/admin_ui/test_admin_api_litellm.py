"""LiteLLM's key-making scripts against Hydrant: its fields in and out, and an honest no to what nobody would hold."""

from pathlib import Path
from typing import Any

import pytest
from support.admin_api import Program, audited
from support.admin_app import AdminApp
from support.admin_samples import Samples, add_start_cost
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
        ("max_budget", 0), ("max_budget", -1), ("max_budget", 1e-10), ("budget_duration", "30d"),
        ("budget_id", "b"), ("key", "sk-mine"), ("blocked", True), ("guardrails", ["x"]),
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


@pytest.mark.parametrize(
    ("field", "value"), [("spend", 0), ("spend", 5), ("blocked", True), ("team_id", "Acme Robotics")]
)
def test_a_change_that_would_not_be_made_is_refused_by_name(
    script: Program, admin: AdminApp, samples: Samples, field: str, value: Any
) -> None:
    before = audited(admin)
    body = {"key": samples.key_id, "rpm_limit": 3, field: value}
    assert script.refused(400, "POST", "/key/update", body)["param"] == field
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
        ({"model": "ftp://x", "input_cost_per_token": 0, "output_cost_per_token": 0}, "litellm_params.model"),
        ({"model": "/x", "api_base": "http://10.0.0.1", "input_cost_per_token": 0}, "api_base"),
    ],
)
def test_a_model_that_cannot_be_made_says_why(script: Program, params: dict[str, Any], param: str) -> None:
    assert script.refused(400, "POST", "/model/new", {"model_name": "x", "litellm_params": params})["param"] == param


@pytest.mark.parametrize(("duration", "period", "told"), [
    ("1d", "day", "1d"), ("24h", "day", "1d"), ("1mo", "month", "1mo"), ("30d", "month", "1mo"), (None, "total", None),
])  # fmt: skip
def test_a_key_has_a_budget_as_it_would_have_there(
    script: Program, duration: str | None, period: str, told: str | None
) -> None:
    body = {"team_id": "Night Shift", "max_budget": 2.5, "budget_duration": duration, "soft_budget": 2}
    made = script.ok("POST", "/key/generate", body)
    assert (made["max_budget"], made["soft_budget"], made["budget_duration"]) == (2.5, 2.0, told)
    assert (made["budget_reset_at"] is None) is (period == "total")
    (budget,) = script.ok("GET", "/admin/v1/budgets?tenant=Night%20Shift")["budgets"]
    assert (budget["scope_id"], budget["period"], budget["amount_nusd"]) == (made["token"], period, 2_500_000_000)
    assert (budget["kind"], budget["alert_percent"]) == ("hard", [80])
    info = script.ok("GET", f"/key/info?key={made['key']}")["info"]
    assert (info["max_budget"], info["spend"]) == (2.5, 0.0)


def test_a_keys_budget_is_changed_replaced_and_lifted(script: Program) -> None:
    key = script.ok("POST", "/key/generate", {"team_id": "Night Shift", "max_budget": 10, "budget_duration": "1d"})[
        "key"
    ]

    def update(**fields: Any) -> tuple[Any, list[tuple[str, int, str]]]:
        info = script.ok("POST", "/key/update", {"key": key, **fields})
        listed = script.ok("GET", "/admin/v1/budgets")["budgets"]
        return info["max_budget"], [(one["period"], one["amount_nusd"], one["kind"]) for one in listed]

    assert update(rpm_limit=5) == (10.0, [("day", 10 * 10**9, "hard")]), "what is not sent stays"
    assert update(max_budget=20) == (20.0, [("day", 20 * 10**9, "hard")])
    assert update(budget_duration="30d") == (20.0, [("month", 20 * 10**9, "hard")])
    assert update(max_budget=None, budget_duration=None) == (None, [])
    assert update(soft_budget=3) == (None, [("total", 3 * 10**9, "soft")])
    assert update(max_budget=4) == (4.0, [("total", 4 * 10**9, "hard")])


def test_of_a_key_with_several_budgets_the_tightest_is_told_and_none_is_changed(script: Program) -> None:
    made = script.ok("POST", "/key/generate", {"team_id": "Night Shift", "max_budget": 10, "budget_duration": "1mo"})
    script.ok("PUT", f"/admin/v1/budgets/{made['token']}/day", {"amount_usd": "1"})
    info = script.ok("GET", f"/key/info?key={made['token']}")["info"]
    assert (info["max_budget"], info["budget_duration"]) == (1.0, "1d")
    error = script.refused(409, "POST", "/key/update", {"key": made["key"], "max_budget": 5})
    assert "/admin/v1/budgets" in error["message"]


@pytest.mark.parametrize("body", [{"budget_duration": "7d"}, {"budget_duration": "1w"}, {"budget_duration": "2mo"},
                                  {"soft_budget": 3.33}, {"soft_budget": 11}])  # fmt: skip
def test_a_budget_that_would_mean_something_else_is_refused_and_no_key_is_made(
    script: Program, admin: AdminApp, body: dict[str, Any]
) -> None:
    before = audited(admin)
    error = script.refused(400, "POST", "/key/generate", {"team_id": "Night Shift", "max_budget": 10, **body})
    assert error["param"] in body
    assert audited(admin) == before


def test_spend_begins_anew_with_the_budget(script: Program, admin: AdminApp, samples: Samples) -> None:
    with session_scope(admin.sessions) as session:
        tenant, model = session.get_one(Tenant, samples.tenant.id), session.get_one(Model, samples.model.id)
        price = current_price(session, model)
        for at in (now_ms() - 2 * DAY_MS, now_ms()):
            event = usage_event(tenant, model, price, started_at_ms=at, ended_at_ms=at, key_id=samples.key_id)
            ledger.settle(session, [event])
    path = f"/key/info?key={samples.key_id}"
    assert script.ok("GET", path)["info"]["spend_nusd"] == 6400
    script.ok("POST", "/key/update", {"key": samples.key_id, "max_budget": 1, "budget_duration": "1d"})
    assert script.ok("GET", path)["info"]["spend_nusd"] == 3200


def test_only_an_owner_changes_a_budget_that_a_key_has(script: Program, admin: AdminApp) -> None:
    operator = Program(admin, "operator")
    made = operator.ok("POST", "/key/generate", {"team_id": "Night Shift", "max_budget": 1})
    body = {"key": made["key"], "max_budget": None}
    assert operator.refused(403, "POST", "/key/update", body)["type"] == "permission_error"
    assert script.ok("GET", f"/key/info?key={made['token']}")["info"]["max_budget"] == 1.0


HOSTED = {
    "model": "openai/gpt-4.1-mini", "api_key": "os.environ/OPENAI_API_KEY",
    "input_cost_per_token": 4e-07, "output_cost_per_token": 1.6e-06, "cache_read_input_token_cost": 1e-07,
}  # fmt: skip


def test_a_providers_model_is_made(script: Program) -> None:
    body = {"model_name": "gpt", "litellm_params": HOSTED, "model_info": {"max_input_tokens": 64000}}
    made = script.ok("POST", "/model/new", body)
    assert made["litellm_params"]["model"] == "openai/gpt-4.1-mini"
    model = script.ok("GET", "/admin/v1/models/gpt")["model"]
    assert model["provider"] == {"model": "openai/gpt-4.1-mini", "api_base": None, "key_env": "OPENAI_API_KEY"}
    assert (model["context_length"], model["price"]["cached_input_nusd"]) == (64_000, 100)
    vectors = {"model_name": "vectors", "litellm_params": HOSTED, "model_info": {"mode": "embedding"}}
    assert script.ok("POST", "/model/new", vectors)["model_info"]["mode"] == "embedding"
    # LiteLLM would balance over two of one name.
    for params in (HOSTED, {**HOSTED, "model": "/models/x", "api_key": None}):
        error = script.refused(409, "POST", "/model/new", {"model_name": "gpt", "litellm_params": params})
        assert error["param"] == "model_name"
        assert "/admin/v1/aliases" in error["message"]


def test_a_providers_key_is_never_taken_nor_repeated(script: Program, admin: AdminApp) -> None:
    before, secret = audited(admin), "sk-proj-0123456789abcdef"
    params = {**HOSTED, "api_key": secret}
    error = script.refused(400, "POST", "/model/new", {"model_name": "gpt", "litellm_params": params})
    assert error["param"] == "api_key"
    assert "os.environ/OPENAI_API_KEY" in error["message"]
    assert secret not in error["message"]
    assert audited(admin) == before


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"api_key": None}, "api_key"),
        ({"api_key": "os.environ/HYDRANT_KEY_PEPPER"}, "api_key"),
        ({"model": "nobody/x"}, "litellm_params.model"),
        ({"model": "gpt-4o"}, "litellm_params.model"),
        ({"api_base": "http://10.0.0.1"}, "api_base"),
        ({"rpm": 5}, "rpm"),
    ],
)
def test_a_providers_model_that_cannot_be_made_says_why(script: Program, changed: dict[str, Any], param: str) -> None:
    body = {"model_name": "gpt", "litellm_params": {**HOSTED, **changed}}
    assert script.refused(400, "POST", "/model/new", body)["param"] == param


def test_charges_for_cold_starts_are_spend_of_the_tenant_and_of_no_key(
    script: Program, admin: AdminApp, samples: Samples
) -> None:
    at_ms = now_ms() // DAY_MS * DAY_MS - 40 * DAY_MS
    with session_scope(admin.sessions) as session:
        add_start_cost(session, samples, at_ms)
    rows = script.ok("GET", "/spend/logs")
    assert [one["endTime"] for one in rows] == sorted((one["endTime"] for one in rows), reverse=True)
    (charge,) = [one for one in rows if one["call_type"] == "cold_start"]
    assert (charge["request_id"], charge["api_key"], charge["team_id"], charge["spend_nusd"]) == (
        samples.cold_start.id,
        "",
        samples.tenant.id,
        7_200_000,
    )
    day = charge["startTime"][:10]
    (summed,) = script.ok("GET", f"/spend/logs?start_date={day}&end_date={day}")
    assert (summed["spend"], summed["models"], summed["keys"]) == (0.0072, {"smollm2-135m-instruct": 0.0072}, {})
    of_key = script.ok("GET", f"/spend/logs?api_key={samples.key_id}&start_date={day}&end_date={day}")
    assert of_key[0]["spend"] == 0.0


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
    script.ok("POST", "/key/update", {"key": samples.key_id, "user_id": "ada"})
    assert script.ok("GET", "/spend/logs?user_id=ada") == rows
    assert script.ok("GET", "/spend/logs?user_id=bo") == []
    assert script.refused(400, "GET", "/spend/logs?start_date=2000-01-01&end_date=2026-01-01")["param"] == "start_date"
    for text in ("yesterday", "2026-2-3", "20261126"):
        error = script.refused(400, "GET", f"/spend/logs?start_date={text}")
        assert error["message"] == "start_date must be a date, YYYY-MM-DD, such as 2026-11-26"


def test_the_spend_of_a_day_has_no_more_decimals_than_money_has(
    script: Program, admin: AdminApp, samples: Samples
) -> None:
    at_ms = now_ms() // DAY_MS * DAY_MS - 40 * DAY_MS
    with session_scope(admin.sessions) as session:
        tenant, model = session.get_one(Tenant, samples.tenant.id), session.get_one(Model, samples.model.id)
        price = current_price(session, model)
        ledger.settle(
            session,
            [usage_event(tenant, model, price, ended_at_ms=at_ms + i, key_id=samples.key_id) for i in range(23)],
        )
    date = script.ok("GET", f"/spend/logs?api_key={samples.key_id}")[0]["endTime"][:10]
    (day,) = script.ok("GET", f"/spend/logs?start_date={date}&end_date={date}")
    assert (day["spend"], day["models"], day["keys"]) == (
        7.36e-05, {"smollm2-135m-instruct": 7.36e-05}, {samples.key_id: 7.36e-05},
    )  # fmt: skip
