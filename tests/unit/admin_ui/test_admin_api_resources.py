"""The management API's resources: what they answer, what they refuse, and whose name the audit log has."""

import time
from pathlib import Path
from typing import Any

import pytest
from support.admin_api import Program, audited, last_audit
from support.admin_app import PEPPER, AdminApp
from support.admin_samples import Samples
from support.redis_server import RedisServer
from support.safetensors_writer import write_model

from admin_ui.api import resources
from gateway.forward import LITELLM_PATHS
from registry.db import read_scope, session_scope
from registry.models import ApiKey, LedgerEntry
from registry.ops import usage
from registry.snapshot import key_digest

HOSTED = {
    "name": "gpt",
    "provider_model": "openai/gpt-4.1-mini",
    "key_env": "OPENAI_API_KEY",
    "input_nusd": 400,
    "output_nusd": 1600,
}


@pytest.fixture
def owner(admin: AdminApp) -> Program:
    """A program with an owner's token."""
    return Program(admin, "owner")


def test_a_tenant_from_its_making_to_its_money(owner: Program, admin: AdminApp) -> None:
    made = owner.send("POST", "/admin/v1/tenants", {"name": "acme", "class": "fast", "rpm": 60})
    assert made.status_code == 201
    tenant = made.json["tenant"]
    assert (tenant["class"], tenant["rpm"], tenant["balance_nusd"], tenant["balance_usd"]) == ("fast", 60, 0, "0.00")
    assert last_audit(admin).actor.startswith("token:owner's (")
    assert owner.refused(409, "POST", "/admin/v1/tenants", {"name": "acme"})["param"] == "name"
    changed = owner.ok("PATCH", "/admin/v1/tenants/acme", {"rpm": None, "enabled": False})["tenant"]
    assert (changed["rpm"], changed["enabled"], changed["class"]) == (None, False, "fast")
    path = f"/admin/v1/tenants/{tenant['tenant_id']}"
    entered = owner.ok("POST", f"{path}/top-up", {"amount_usd": "12.50", "reason": "invoice 7"})
    assert (entered["balance_nusd"], entered["balance_usd"]) == (12_500_000_000, "12.50")
    entered = owner.ok("POST", f"{path}/adjust", {"amount_nusd": -500_000_000, "reason": "twice"})
    assert entered["entry"]["amount_usd"] == "-0.50"
    assert owner.ok("GET", path)["tenant"]["balance_nusd"] == 12_000_000_000
    ledger = owner.ok("GET", "/admin/v1/ledger?tenant=acme")["ledger"]
    assert [entry["kind"] for entry in ledger] == ["adjust", "top_up"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\u0000b"}, "name"),
        ({"name": "tab\tbed"}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a", "rpm": 0}, "rpm"),
        ({"name": "a", "rpm": True}, "rpm"),
        ({"name": "a", "rpm": 1.5}, "rpm"),
        ({"name": "a", "class": "royal"}, "class"),
        ({"name": "a", "colour": "red"}, "colour"),
        ([], None),
        (b"{", None),
        (b"\xff", None),
        (b'{"name": "\\ud800"}', None),
    ],
)
def test_bad_input_is_400_and_names_the_field(owner: Program, admin: AdminApp, body: Any, param: str | None) -> None:
    before = audited(admin)
    assert owner.refused(400, "POST", "/admin/v1/tenants", body)["param"] == param
    assert audited(admin) == before


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"reason": "x"}, None),
        ({"reason": "x", "amount_usd": "1", "amount_nusd": 1}, None),
        ({"reason": "x", "amount_usd": "1e-12"}, "amount_usd"),
        ({"reason": "x", "amount_usd": "NaN"}, "amount_usd"),
        ({"reason": "x", "amount_nusd": 0}, "amount_nusd"),
        ({"reason": "x", "amount_nusd": 10**30}, "amount_nusd"),
        ({"amount_usd": "1"}, "reason"),
    ],
)
def test_bad_money_is_refused(owner: Program, body: Any, param: str | None) -> None:
    owner.ok("POST", "/admin/v1/tenants", {"name": "acme"})
    assert owner.refused(400, "POST", "/admin/v1/tenants/acme/top-up", body)["param"] == param
    assert owner.ok("GET", "/admin/v1/ledger")["ledger"] == []


def test_money_that_is_sent_again_with_its_idempotency_key_is_entered_once(owner: Program, admin: AdminApp) -> None:
    owner.ok("POST", "/admin/v1/tenants", {"name": "acme"})
    path, body = "/admin/v1/tenants/acme/top-up", {"amount_usd": "5", "reason": "invoice 8"}
    first = owner.ok("POST", path, body, Idempotency_Key="inv-8")
    assert owner.ok("POST", path, body, Idempotency_Key="inv-8") == first
    assert owner.refused(409, "POST", path, {**body, "amount_usd": "6"}, Idempotency_Key="inv-8")["code"] == "conflict"
    # Another program's key of the same text is another key; and what was refused may be sent again.
    other = Program(admin, "owner")
    other.ok("POST", path, body, Idempotency_Key="inv-8")
    owner.refused(400, "POST", path, {**body, "amount_usd": "x"}, Idempotency_Key="inv-9")
    owner.ok("POST", path, body, Idempotency_Key="inv-9")
    assert owner.refused(400, "POST", path, body, Idempotency_Key="k" * 300)["param"] == "Idempotency-Key"
    with read_scope(admin.sessions) as session:
        assert session.query(LedgerEntry).count() == 3


def test_a_key_is_shown_once_and_changed_rotated_and_revoked(owner: Program, admin: AdminApp, samples: Samples) -> None:
    tenant = samples.tenant.id
    body = {"tenant": tenant, "name": "ci", "models": ["small"], "rpm": 5}
    made = owner.ok("POST", "/admin/v1/keys", body, Idempotency_Key="once")
    key, plaintext = made["key"], made["plaintext"]
    assert key["models"] == ["smollm2-135m-instruct"], "an alias is kept as the model's name"
    with read_scope(admin.sessions) as session:
        assert session.get_one(ApiKey, key["key_id"]).digest == key_digest(PEPPER, plaintext)
    again = owner.ok("POST", "/admin/v1/keys", body, Idempotency_Key="once")
    assert again == {"key": key, "plaintext": None}
    assert plaintext not in owner.send("GET", "/admin/v1/keys").text + owner.send("GET", "/admin/v1/audit").text

    path = f"/admin/v1/keys/{key['prefix']}"
    changed = owner.ok("PATCH", path, {"rpm": None, "models": ["*"], "expires_at_ms": key["created_at_ms"] + 10**10})
    assert (changed["key"]["rpm"], changed["key"]["models"], changed["key"]["name"]) == (None, ["*"], "ci")
    assert owner.refused(400, "PATCH", path, {"expires_at_ms": 1})["param"] == "expires_at_ms"
    assert owner.refused(404, "PATCH", path, {"models": ["nobody"]})["param"] == "model"
    new = owner.ok("POST", f"{path}/rotate", {"overlap_s": 60})
    assert new["key"]["key_id"] != key["key_id"]
    assert owner.ok("POST", f"{path}/revoke")["key"]["state"] == "revoked"
    assert owner.ok("POST", f"{path}/revoke")["key"]["state"] == "revoked"
    assert owner.refused(409, "PATCH", path, {"name": "later"})["param"] == "key_id"
    assert owner.refused(409, "POST", f"{path}/rotate", {})["param"] == "key_id"
    assert owner.refused(404, "GET", "/admin/v1/keys/zzzzzzzz")["code"] == "not_found"


def test_lists_come_in_pages(owner: Program, samples: Samples) -> None:
    for name in ("a", "b", "c"):
        owner.ok("POST", "/admin/v1/keys", {"tenant": "Night Shift", "name": name})
    names, before = [], ""
    while True:
        page = owner.ok("GET", f"/admin/v1/keys?tenant=Night%20Shift&limit=2{before}")
        names += [key["name"] for key in page["keys"]]
        if page["next_before"] is None:
            break
        before = f"&before={page['next_before']}"
    assert names == ["c", "b", "a"]
    first = owner.ok("GET", "/admin/v1/tenants?limit=1")
    second = owner.ok("GET", f"/admin/v1/tenants?limit=1&after={first['next_after']}")
    assert [page["tenants"][0]["name"] for page in (first, second)] == ["Acme Robotics", "Night Shift"]
    assert second["next_after"] is None
    assert owner.refused(400, "GET", "/admin/v1/tenants?limit=0")["param"] == "limit"
    assert owner.refused(400, "GET", "/admin/v1/ledger?before=99999999999999999999")["param"] == "before"
    assert owner.refused(400, "GET", "/admin/v1/tenants?colour=red")["param"] == "colour"


def test_usage_is_filtered_summed_and_exported(owner: Program, admin: AdminApp, samples: Samples) -> None:
    page = owner.ok("GET", "/admin/v1/usage?limit=100&model=small&tenant=Acme%20Robotics")
    rest = owner.ok("GET", f"/admin/v1/usage?limit=100&offset={page['next_offset']}")
    assert (len(page["usage"]), len(rest["usage"]), rest["next_offset"]) == (100, 20, None)
    totals = owner.ok("GET", "/admin/v1/usage/totals")
    with read_scope(admin.sessions) as session:
        cost = usage.usage_totals(session, usage.UsageFilter()).cost_nusd
    assert totals["totals"]["cost_nusd"] == totals["by_model"]["smollm2-135m-instruct"]["cost_nusd"] == cost
    assert owner.ok("GET", "/admin/v1/usage/totals?until_ms=1")["totals"]["requests"] == 0
    assert owner.refused(404, "GET", "/admin/v1/usage?tenant=nobody")["param"] == "tenant"
    csv = owner.send("GET", "/admin/v1/usage.csv")
    assert csv.content_type.startswith("text/csv")
    assert len(csv.text.splitlines()) == 121
    assert "Invoice 2026-117" in owner.send("GET", "/admin/v1/ledger.csv").text


def test_a_model_is_registered_changed_priced_and_deleted(owner: Program, admin: AdminApp, tmp_path: Path) -> None:
    source = str(write_model(tmp_path / "tiny"))
    body = {"name": "org/tiny", "source": source, "input_nusd": 20, "output_nusd": 60, "settings": {"dtype": "float32"}}
    begun = owner.send("POST", "/admin/v1/models", body)
    assert begun.status_code == 202
    path = f"/admin/v1/registrations/{begun.json['registration']['registration_id']}"
    deadline = time.monotonic() + 20
    while (job := owner.ok("GET", path)["registration"])["state"] == "reading":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert job["error"] is None
    model = owner.ok("GET", "/admin/v1/models/org%2Ftiny")["model"]
    assert (model["model_id"], model["settings"]["dtype"]) == (job["model_id"], "float32")
    assert last_audit(admin).actor.startswith("token:owner's (")
    assert owner.refused(409, "POST", "/admin/v1/models", body)["param"] == "name"

    path = f"/admin/v1/models/{model['model_id']}"
    changed = owner.ok("PATCH", path, {"keep_alive_s": 7, "min_replicas": 0, "enabled": True})["model"]
    assert (changed["keep_alive_s"], changed["capacity"]) == (7, model["capacity"])
    assert owner.refused(400, "PATCH", path, {"settings": {"colour": "red"}})["param"] == "colour"
    later = model["created_at_ms"] + 10**9
    priced = owner.ok("POST", f"{path}/prices", {"input_nusd": 30, "output_nusd": 90, "from_ms": later})
    assert [price["input_usd_per_million"] for price in priced["prices"]] == ["0.03", "0.02"]
    assert owner.ok("GET", path)["model"]["price"]["input_nusd"] == 20
    assert owner.ok("POST", f"{path}/aliases", {"alias": "nick"})["aliases"] == [
        {"name": "nick", "models": {"org/tiny": 1}}
    ]
    assert owner.ok("GET", "/admin/v1/models/nick")["model"]["model_id"] == model["model_id"]
    assert owner.refused(409, "POST", f"{path}/aliases", {"alias": "nick"})["param"] == "alias"
    assert owner.ok("PUT", "/admin/v1/aliases/nick", {"models": {"org/tiny": 9}})["alias"]["models"] == {"org/tiny": 9}
    assert owner.refused(404, "PUT", "/admin/v1/aliases/nick", {"models": {"nobody": 9}})["param"] == "model"
    assert owner.ok("DELETE", "/admin/v1/aliases/nick")["removed"]["name"] == "nick"
    assert owner.ok("POST", f"{path}/warm", {"minutes": 5})["model"]["warm_until_ms"]
    assert owner.ok("POST", f"{path}/stop")["model"]["warm_until_ms"] is None
    assert owner.ok("DELETE", path)["deleted"]["name"] == "org/tiny"
    owner.refused(404, "GET", path)


def test_a_source_that_cannot_be_served_is_refused_or_told_by_the_registration(owner: Program, tmp_path: Path) -> None:
    body = {"name": "tiny", "source": str(tmp_path / "none"), "input_nusd": 20, "output_nusd": 60}
    path = owner.ok("POST", "/admin/v1/models", body)["registration"]["registration_id"]
    deadline = time.monotonic() + 20
    while (job := owner.ok("GET", f"/admin/v1/registrations/{path}")["registration"])["state"] == "reading":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert job["state"] == "failed"
    assert job["error"]
    assert owner.refused(400, "POST", "/admin/v1/models", {**body, "source": "ftp://x"})["param"] == "source"


def test_nodes_and_cold_starts_tell_what_the_pages_tell(owner: Program, admin: AdminApp, samples: Samples) -> None:
    nodes = owner.ok("GET", "/admin/v1/nodes")["nodes"]
    assert [(node["name"], node["state"], node["stages"]) for node in nodes] == [
        ("node-a", "ready", 1),
        ("node-b", "ready", 1),
    ]
    assert nodes[0]["devices"][0]["free_bytes"] < nodes[0]["devices"][0]["memory_bytes"]
    assert owner.ok("POST", "/admin/v1/nodes/node-a/cordon")["node"]["state"] == "cordoned"
    assert owner.ok("POST", "/admin/v1/nodes/node-a/drain")["node"]["state"] == "draining"
    assert owner.ok("POST", "/admin/v1/nodes/node-a/uncordon")["node"]["state"] == "ready"
    assert len(owner.ok("GET", "/admin/v1/nodes/node-a")["node"]["running"]) == 1
    owner.refused(404, "POST", "/admin/v1/nodes/nowhere/drain")
    assert last_audit(admin).action == "node.uncordon"

    starts = owner.ok("GET", "/admin/v1/cold-starts?model=small&limit=1")
    assert starts["next_offset"] == 1
    found = owner.ok("GET", f"/admin/v1/cold-starts/{samples.cold_start.id}")
    assert found["cold_start"]["state"] == "ready"
    assert found["cold_start"]["plan"]["stages"]
    assert found["explanation"]
    assert found["waterfall"]
    owner.refused(404, "GET", "/admin/v1/cold-starts/cst_none")


def test_a_change_is_kept_and_said_when_redis_is_away(owner: Program) -> None:
    answer = owner.send("POST", "/admin/v1/tenants", {"name": "acme"})
    assert answer.status_code == 201
    assert "Redis did not answer" in answer.headers["X-Hydrant-Warning"]


def test_gateways_learn_of_a_key_at_once(admin_with_redis: AdminApp) -> None:
    program = Program(admin_with_redis, "owner")
    answer = program.send("POST", "/admin/v1/tenants", {"name": "acme"})
    assert "X-Hydrant-Warning" not in answer.headers
    made = program.ok("POST", "/admin/v1/keys", {"tenant": "acme", "name": "ci"})
    snapshot = admin_with_redis.app.extensions["hydrant_redis"].get("hyd:snapshot")
    assert key_digest(PEPPER, made["plaintext"]).encode() in snapshot


def test_a_database_that_does_not_answer_is_503(database: Path, redis_server: RedisServer, admin: AdminApp) -> None:
    program = Program(admin, "owner")
    with session_scope(admin.sessions) as session:
        session.connection().exec_driver_sql("DROP TABLE usage")
    error = program.refused(503, "GET", "/admin/v1/usage")
    assert error["code"] == "database_unavailable"


def test_gateways_pass_on_all_of_litellms_routes() -> None:
    assert {one.path for one in resources.litellm.api.operations} == LITELLM_PATHS


def test_every_change_is_audited_in_the_tokens_name(
    owner: Program, admin: AdminApp, samples: Samples, tmp_path: Path
) -> None:
    """In an order in which each can be done; the list must hold every operation that is not a GET."""
    tenant, key, model = f"/admin/v1/tenants/{samples.tenant.id}", f"/admin/v1/keys/{samples.key_id}", samples.model.id
    money, price = {"amount_usd": "1", "reason": "x"}, {"input_nusd": 1, "output_nusd": 1}
    source = str(write_model(tmp_path / "tiny"))
    costs = {"model": source, "input_cost_per_token": 0, "output_cost_per_token": 0}
    changes: list[tuple[str, str, str, Any]] = [
        ("create_tenant", "POST", "/admin/v1/tenants", {"name": "new"}),
        ("update_tenant", "PATCH", tenant, {"rpm": 5}),
        ("top_up", "POST", f"{tenant}/top-up", money),
        ("adjust", "POST", f"{tenant}/adjust", money),
        ("create_key", "POST", "/admin/v1/keys", {"tenant": samples.tenant.id, "name": "k"}),
        ("update_key", "PATCH", key, {"name": "renamed"}),
        ("litellm_update_key", "POST", "/key/update", {"key": samples.key_id, "rpm_limit": 3}),
        ("set_budget", "PUT", f"/admin/v1/budgets/{samples.key_id}/day", {"amount_usd": "2"}),
        ("remove_budget", "DELETE", f"/admin/v1/budgets/{samples.key_id}/day", None),
        ("register_hosted_model", "POST", "/admin/v1/hosted-models", HOSTED),
        ("update_hosted_model", "PATCH", "/admin/v1/hosted-models/gpt", {"context_length": 9000}),
        ("set_policy", "PUT", f"/admin/v1/models/{model}/policy", {"when_cold": "reject"}),
        ("remove_policy", "DELETE", f"/admin/v1/models/{model}/policy", None),
        ("rotate_key", "POST", f"{key}/rotate", {"overlap_s": 60}),
        ("revoke_key", "POST", f"{key}/revoke", None),
        ("litellm_generate_key", "POST", "/key/generate", {"team_id": "new", "key_alias": "theirs"}),
        ("litellm_delete_keys", "POST", "/key/delete", {"key_aliases": ["theirs"]}),
        ("litellm_new_team", "POST", "/team/new", {"team_alias": "team"}),
        ("litellm_update_team", "POST", "/team/update", {"team_id": "team", "rpm_limit": 3}),
        ("litellm_new_user", "POST", "/user/new", {"user_id": "ada", "teams": ["team"]}),
        ("litellm_update_user", "POST", "/user/update", {"user_id": "ada", "rpm_limit": 3}),
        ("litellm_delete_users", "POST", "/user/delete", {"user_ids": ["ada"]}),
        ("litellm_delete_teams", "POST", "/team/delete", {"team_ids": ["team"]}),
        ("update_model", "PATCH", f"/admin/v1/models/{model}", {"keep_alive_s": 9}),
        ("set_price", "POST", f"/admin/v1/models/{model}/prices", price),
        ("add_alias", "POST", f"/admin/v1/models/{model}/aliases", {"alias": "nick"}),
        ("share_alias", "PUT", "/admin/v1/aliases/nick", {"models": {samples.model.name: 1}}),
        ("remove_alias", "DELETE", "/admin/v1/aliases/nick", None),
        ("warm_model", "POST", f"/admin/v1/models/{model}/warm", {}),
        ("stop_model", "POST", f"/admin/v1/models/{model}/stop", None),
        ("delete_model", "DELETE", f"/admin/v1/models/{model}", None),
        ("litellm_delete_model", "POST", "/model/delete", {"id": "old-llama"}),
        ("cordon_node", "POST", "/admin/v1/nodes/node-a/cordon", None),
        ("uncordon_node", "POST", "/admin/v1/nodes/node-a/uncordon", None),
        ("drain_node", "POST", "/admin/v1/nodes/node-a/drain", None),
        ("litellm_new_model", "POST", "/model/new", {"model_name": "t", "litellm_params": costs}),
        # Last: its entry comes when the source has been read.
        ("register_model", "POST", "/admin/v1/models", {"name": "u", "source": source, **price}),
    ]
    assert {name for name, *_ in changes} == {
        one.name for api in resources.APIS for one in api.operations if one.method != "GET"
    }
    for name, method, path, body in changes:
        before = audited(admin)
        owner.ok(method, path, body)
        deadline = time.monotonic() + 20
        while audited(admin) == before:
            assert time.monotonic() < deadline, name
            time.sleep(0.02)
        assert last_audit(admin).actor.startswith("token:owner's ("), name
