"""Every page and the main changes on Postgres: SQLite forgives grouping and typing that Postgres does not."""

from collections.abc import Iterator

import pytest
from support.admin_api import Program
from support.admin_app import AdminApp, make_database, running_app, send
from support.admin_samples import Samples, add_samples, add_start_cost
from support.databases import postgres_server
from support.postgres import PostgresServer
from support.redis_server import RedisServer

from registry.db import session_scope
from registry.ids import now_ms

__all__ = ["postgres_server"]


@pytest.fixture
def admin(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[AdminApp]:
    """The admin UI over a Postgres schema and a Redis of its own."""
    with postgres_server.new_schema() as url:
        make_database(url)
        with running_app(url, redis_server.url) as running:
            yield running


@pytest.fixture
def samples(admin: AdminApp) -> Samples:
    """A small busy installation."""
    with session_scope(admin.sessions) as session:
        return add_samples(session, now_ms())


def test_every_page_and_export_works(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("owner")
    model = f"/models/{samples.model.id}"
    for path in (
        "/", "/overview/live", "/overview/day", "/models", model, f"{model}/live", f"{model}/edit", f"{model}/price",
        f"{model}/why", f"/models/cold-starts/{samples.cold_start.id}", "/nodes", "/nodes/node-a", "/tenants",
        f"/tenants/{samples.tenant.id}", "/keys", "/keys/new", f"/keys/{samples.key_id}", "/usage?period=24h",
        f"/usage?period=30d&tenant={samples.tenant.id}&model={samples.model.id}", "/usage/export.csv",
        "/ledger", "/ledger?kind=top_up", "/ledger/export.csv", "/audit", "/users", "/health",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text[-500:])


def test_changes_are_kept(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("owner")
    assert send(client, f"/tenants/{samples.tenant.id}/money", {"amount": "1.5", "reason": "x"}).status_code == 302
    assert send(client, f"/models/{samples.model.id}/warm", {"minutes": "15"}).status_code == 302
    assert send(client, "/nodes/node-a/drain").status_code == 302
    taken = send(client, "/tenants/new", {"name": "Acme Robotics"})
    assert taken.status_code == 422
    assert "already a tenant named" in taken.text
    page = client.get(f"/tenants/{samples.tenant.id}").text
    assert "$1.50" in page
    assert ">draining<" in client.get("/nodes").text


def test_the_management_api_works(admin: AdminApp, samples: Samples) -> None:
    program = Program(admin, "owner")
    with session_scope(admin.sessions) as session:
        add_start_cost(session, samples, now_ms())
    program.ok("PUT", "/admin/v1/budgets/Acme Robotics/month", {"amount_usd": "5"})
    program.ok("PUT", f"/admin/v1/models/{samples.model.id}/policy", {"when_cold": "reject", "tenant": "Night Shift"})
    for path in (
        "/admin/v1/budgets", "/admin/v1/budget-alerts", "/admin/v1/policies?tenant=Night Shift",
        "/admin/v1/reconciliation",
        "/admin/v1/usage/cold-starts", "/admin/v1/tenants/Acme Robotics/invoices", "/spend/logs",
        "/admin/v1/tenants?after=A&limit=1", "/admin/v1/keys?limit=1&before=key_z", "/admin/v1/models",
        "/admin/v1/nodes/node-a",
        f"/admin/v1/cold-starts/{samples.cold_start.id}", "/admin/v1/cold-starts?offset=1", "/admin/v1/usage/totals",
        "/admin/v1/usage?limit=5&offset=3", "/admin/v1/usage.csv", "/admin/v1/ledger?before=900719925474099",
        "/admin/v1/audit",
        f"/key/info?key={samples.key_id}", "/model/info", "/spend/logs?start_date=2026-01-01&end_date=2026-12-31",
    ):  # fmt: skip
        program.ok("GET", path)
    top_up = {"amount_usd": "5", "reason": "x"}
    first = program.ok("POST", "/admin/v1/tenants/Acme Robotics/top-up", top_up, Idempotency_Key="k")
    assert program.ok("POST", "/admin/v1/tenants/Acme Robotics/top-up", top_up, Idempotency_Key="k") == first
    made = program.ok("POST", "/key/generate", {"team_id": "Night Shift", "models": ["small"]})
    program.ok("POST", "/key/delete", {"keys": [made["key"]]})
    for name in ("ada", "bo"):
        program.ok("POST", "/user/new", {"user_id": name, "teams": ["Night Shift"]})
    users = program.ok("GET", "/user/list?user_ids=ada,bo&team=Night Shift&page=2&page_size=1")
    assert ([user["user_id"] for user in users["users"]], users["total"], users["total_pages"]) == (["bo"], 2, 2)
    program.ok("GET", f"/user/list?page_size=100&page={2**53}")
    program.ok("POST", "/user/update", {"user_id": "bo", "max_budget": 5, "models": ["small"]})
    program.ok("POST", "/user/delete", {"user_ids": ["bo"]})
    program.ok("POST", "/team/update", {"team_id": "Night Shift", "team_alias": "Day Shift", "rpm_limit": 5})
    program.ok("POST", "/team/delete", {"team_ids": ["Day Shift"]})
    program.refused(409, "POST", "/user/update", {"user_id": "ada", "rpm_limit": 5})
    program.refused(404, "GET", "/admin/v1/models/\ufffd")
    program.refused(400, "GET", "/admin/v1/tenants/%00")
    program.refused(400, "POST", "/key/generate", {"team_id": "a\u0000b"})
