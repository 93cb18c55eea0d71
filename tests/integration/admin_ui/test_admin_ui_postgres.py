"""Every page and the main changes on Postgres: SQLite forgives grouping and typing that Postgres does not."""

from collections.abc import Iterator

import pytest
from support.admin_app import AdminApp, make_database, running_app, send
from support.admin_samples import Samples, add_samples
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
