"""`hydrant ledger reconcile`: one look where all agrees, two where it does not, and what the doctor says of it."""

import pytest
from support.registry_rows import add_tenant

from cli import ledger


def test_books_that_agree_and_books_that_do_not(hydrant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger.time, "sleep", lambda _seconds: None)
    with hydrant.sql() as session:
        add_tenant(session, "acme")
    hydrant.run("tenant", "top-up", "acme", "5")
    hydrant.run("budget", "set", "acme", "month", "5")
    assert "no difference" in hydrant.run("ledger", "reconcile").stdout
    document = hydrant.json("ledger", "reconcile", "--since", "2d")["reconciliation"]
    compared = document["compared"]
    assert (document["differences"], compared["ledger"], compared["budgets"]) == ([], 1, 1)
    with hydrant.redis.client() as client:
        (tenant_id,) = client.hkeys("hyd:balance")
        client.hset("hyd:balance", tenant_id, 6)
    told = hydrant.run("ledger", "reconcile", expect=1).stdout
    assert f"balance_differs: the balance of tenant {tenant_id} is $5.00 by the ledger" in told
    findings = {one["check"]: one for one in hydrant.json("doctor", "--control-only", expect=1)["findings"]}
    assert findings["ledger"]["verdict"] == "failed"
    assert "1 difference" in findings["ledger"]["detail"]


def test_without_redis_it_says_what_to_start(hydrant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{hydrant.home}/nothing.sock")
    told = hydrant.run("ledger", "reconcile", expect=1).stderr
    assert told.startswith("hydrant: Redis does not answer (")
    assert "hydrant up" in told
    assert hydrant.json("ledger", "reconcile", expect=1)["error"]["field"] == "REDIS_URL"
