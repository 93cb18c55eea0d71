"""`hydrant budget`: what is set is stored, audited and published, with what is spent of it."""

from sqlalchemy import select

from registry.budget_windows import field, window_at
from registry.ids import now_ms
from registry.models import Audit
from registry.ops import budgets


def test_a_budget_from_setting_to_removal(hydrant) -> None:
    tenant_id = hydrant.json("tenant", "create", "acme")["tenant"]["tenant_id"]
    made = hydrant.json("budget", "set", "acme", "month", "500", "--alert", "95", "--alert", "80")["budget"]
    assert (made["amount_nusd"], made["kind"], made["alert_percent"]) == (500_000_000_000, "hard", [80, 95])
    assert hydrant.snapshot()["tenants"][tenant_id]["budgets"] == {"month": 500_000_000_000}
    month = field(tenant_id, "month", window_at("month", now_ms()))
    with hydrant.redis.client() as redis:
        assert redis.hget("hyd:budget:spent", month) == "0"
    hydrant.run("budget", "set", "acme", "month", "400", "--soft")
    assert hydrant.snapshot()["tenants"][tenant_id]["budgets"] == {}
    assert "400.00" in hydrant.run("budget", "list").stdout
    hydrant.run("budget", "remove", "acme", "month")
    assert hydrant.run("budget", "remove", "acme", "month", expect=1).exit_code == 1
    assert hydrant.json("budget", "list") == {"budgets": [], "alerts": []}
    with hydrant.sql() as session:
        actions = session.scalars(select(Audit.action).where(Audit.subject == tenant_id).order_by(Audit.id)).all()
    assert actions == ["tenant.create", "budget.set", "budget.set", "budget.remove"]


def test_a_keys_budget_goes_with_its_rotation(hydrant) -> None:
    hydrant.run("tenant", "create", "acme")
    key_id = hydrant.json("key", "create", "acme", "--name", "ci")["key"]["key_id"]
    hydrant.run("budget", "set", key_id, "day", "1.5")
    new_id = hydrant.json("key", "rotate", key_id)["key"]["key_id"]
    published = {key["key_id"]: key["budgets"] for key in hydrant.snapshot()["keys"].values()}
    assert published == {new_id: {"day": 1_500_000_000}}


def test_what_is_no_budget_is_refused(hydrant) -> None:
    hydrant.run("tenant", "create", "acme")
    hydrant.run("budget", "set", "acme", "week", "1", expect=2)
    told = hydrant.run("budget", "set", "acme", "day", "0", expect=1).stderr
    assert told == "hydrant: amount must be more than $0.00\n"
    hydrant.run("budget", "set", "acme", "day", "1", "--alert", "101", expect=1)
    assert "a key is named by its id" in hydrant.run("budget", "set", "nobody", "day", "1", expect=1).stderr


def test_budgets_and_alerts_name_tenants_and_keys(hydrant) -> None:
    hydrant.run("tenant", "create", "acme")
    key_id = hydrant.json("key", "create", "acme", "--name", "ci")["key"]["key_id"]
    for owner in ("acme", key_id):
        hydrant.run("budget", "set", owner, "total", "2", "--alert", "50")
    with hydrant.sql() as session:
        rows = budgets.list_budgets(session)
        budgets.record_alerts(session, [budgets.Spending(row, 0, spent_nusd=10**9, ends_at_ms=None) for row in rows])
    lines = hydrant.run("budget", "list").stdout.splitlines()
    assert [line.split()[:4] for line in lines[:3]] == [
        ["TENANT", "KEY", "KEY", "ID"],
        ["acme", "ci", key_id, "total"],
        ["acme", "-", "-", "total"],
    ]
    told = sorted(line.partition("  ")[2] for line in lines[3:])
    assert told == [
        "acme reached 50 % (total): $1.00 of $2.00",
        "key ci of acme reached 50 % (total): $1.00 of $2.00",
    ]
