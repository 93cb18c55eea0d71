"""What Redis and the controller hear of a change, and that pages and changes survive without Redis."""

import base64
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from support.admin_app import AdminApp, running_app, send
from support.admin_samples import add_samples
from support.redis_server import RedisServer

from admin_ui.config import limiter_storage_url
from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.ops import tenants
from registry.ops.models import find_model
from registry.snapshot import BALANCE_KEY, SNAPSHOT_KEY, parse_snapshot


def snapshot(server: RedisServer) -> dict[str, Any]:
    with server.client() as client:
        raw = client.get(SNAPSHOT_KEY)
    assert isinstance(raw, str)
    return dict(parse_snapshot(raw))


def messages(server: RedisServer) -> list[tuple[str, list[Any]]]:
    """(task name, arguments) of what lies in the controller's queue."""
    with server.client() as client:
        found = [json.loads(raw) for raw in client.lrange("control", 0, -1)]  # type: ignore[union-attr]
    return [(one["headers"]["task"], json.loads(base64.b64decode(one["body"]))[0]) for one in found]


def test_a_revoked_key_leaves_the_snapshot_at_once(admin_with_redis: AdminApp, redis_server: RedisServer) -> None:
    client = admin_with_redis.signed_in("operator")
    with session_scope(admin_with_redis.sessions) as session:
        samples = add_samples(session, now_ms())
    made = send(client, "/keys/new", {"tenant_id": samples.tenant.id, "name": "x", "all_models": "y", "expires": ""})
    assert made.status_code == 200
    ids = {key["key_id"] for key in snapshot(redis_server)["keys"].values()}
    assert samples.key_id in ids
    send(client, f"/keys/{samples.key_id}/revoke")
    assert ids - {key["key_id"] for key in snapshot(redis_server)["keys"].values()} == {samples.key_id}
    send(client, f"/tenants/{samples.tenant.id}/disable")
    assert snapshot(redis_server)["keys"] == {}


def test_a_top_up_publishes_the_balance(admin_with_redis: AdminApp, redis_server: RedisServer) -> None:
    with session_scope(admin_with_redis.sessions) as session:
        tenant = tenants.create_tenant(session, "test", name="Acme")
    send(admin_with_redis.signed_in("owner"), f"/tenants/{tenant.id}/money", {"amount": "3.5", "reason": "x"})
    with redis_server.client() as client:
        assert client.hget(BALANCE_KEY, tenant.id) == "3500000000"


def test_a_new_tenants_balance_is_known_at_once(admin_with_redis: AdminApp, redis_server: RedisServer) -> None:
    fields = {"name": "Acme", "rpm": "", "tpm": "", "parallel": ""}
    made = send(admin_with_redis.signed_in("owner"), "/tenants/new", fields)
    assert made.status_code == 302
    with redis_server.client() as client:
        assert client.hgetall(BALANCE_KEY) == {made.location.rsplit("/", 1)[1]: "0"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/models/{model}/warm", {"minutes": "15"}),
        ("/models/{model}/stop", {}),
        ("/models/{model}/disable", {}),
        ("/models/{model}/delete", {}),
        ("/nodes/node-a/drain", {}),
        ("/nodes/node-a/cordon", {}),
        ("/nodes/node-a/uncordon", {}),
    ],
)
def test_the_controller_is_woken(
    admin_with_redis: AdminApp, redis_server: RedisServer, path: str, fields: dict[str, str]
) -> None:
    with session_scope(admin_with_redis.sessions) as session:
        samples = add_samples(session, now_ms())
    client = admin_with_redis.signed_in("operator")
    assert send(client, path.format(model=samples.model.id), fields).status_code == 302
    assert messages(redis_server) == [("control.reconcile", [])]


def test_a_refused_change_wakes_nobody(admin_with_redis: AdminApp, redis_server: RedisServer) -> None:
    client = admin_with_redis.signed_in("operator")
    assert send(client, "/nodes/nowhere/drain").status_code == 404
    assert send(client, "/tenants/new", {"name": ""}).status_code == 422
    assert messages(redis_server) == []


def test_without_redis_the_change_is_kept_and_the_page_says_so(
    admin_with_redis: AdminApp, redis_server: RedisServer
) -> None:
    client = admin_with_redis.signed_in("operator")
    assert "Redis does not answer" not in client.get("/tenants").text
    redis_server.kill()
    answer = send(client, "/tenants/new", {"name": "Acme"})
    assert answer.status_code == 302
    with read_scope(admin_with_redis.sessions) as session:
        assert tenants.find_tenant(session, "Acme").enabled
    page = client.get(answer.location).text
    assert "Redis does not answer" in page
    assert "Saved. Redis did not answer" in page
    redis_server.start()
    assert "Redis does not answer" not in client.get("/tenants").text
    send(client, "/tenants/new", {"name": "Second"})
    assert {tenant["name"] for tenant in snapshot(redis_server)["tenants"].values()} == {"Acme", "Second"}


def test_a_redis_that_hangs_delays_a_page_and_loses_nothing(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes connections and never answers: every wait has a bound."""
    monkeypatch.setattr("admin_ui.changes.REDIS_TIMEOUT_S", 0.05)
    monkeypatch.setattr("admin_ui.app.REDIS_TIMEOUT_S", 0.05)
    path = tmp_path / "hung.sock"
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(path))
        hung.listen(64)
        with running_app(database, f"unix://{path}") as app:
            assert app.log_in("owner@example.org", "a wrong password")[1].status_code == 401
            client = app.signed_in("operator")
            answer = send(client, "/tenants/new", {"name": "Acme"})
            assert answer.status_code == 302
            assert "Redis does not answer" in client.get("/").text
            with read_scope(app.sessions) as session:
                assert tenants.find_tenant(session, "Acme").enabled


def test_the_overview_shows_who_waits_and_what_cannot_start(
    admin_with_redis: AdminApp, redis_server: RedisServer
) -> None:
    now = now_ms()
    with session_scope(admin_with_redis.sessions) as session:
        add_samples(session, now)
        model = find_model(session, "qwen3-8b")
        model.warm_until_ms = now + 3_600_000
    fresh = {"at_ms": now, "waiting": 3, "running": 2}
    stale = {"at_ms": now - 60_000, "waiting": 50, "running": 50}
    failed = {"state": "failed", "error": "No node can take anything.", "eta_ms": None, "failed_at_ms": now}
    with redis_server.client() as client:
        client.hset("hyd:activity:qwen3-8b", mapping={"gw-1": json.dumps(fresh), "gw-2": json.dumps(stale)})
        client.hset("hyd:coldstart", "qwen3-8b", json.dumps(failed))
    page = admin_with_redis.signed_in("viewer").get("/overview/live").text
    assert "<dt>Waiting for a cold start</dt><dd>3</dd>" in page
    assert "<dt>Requests running</dt><dd>2</dd>" in page
    assert "<strong>qwen3-8b</strong> cannot start: No node can take anything." in page
    page = admin_with_redis.signed_in("viewer").get(f"/models/{model.id}/live").text
    assert re.search(r"kept up until <time[^>]*>[^<]*</time> · 2 running, 3 waiting<", page)


def test_a_redis_url_in_the_spelling_of_the_rate_limiter() -> None:
    assert limiter_storage_url("unix:///run/redis.sock") == "redis+unix:///run/redis.sock"
    for url in ("redis://:secret@host:6379/2", "rediss://host/0"):
        assert limiter_storage_url(url) == url
