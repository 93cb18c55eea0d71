"""The management API on budgets, invoices, the costs of starts and the books."""

from typing import Any

import pytest
from pydantic import TypeAdapter
from support.admin_api import Program, audited
from support.admin_app import AdminApp
from support.admin_samples import Samples, add_start_cost

from registry.db import session_scope
from registry.documents.books import InvoiceDocument
from registry.ids import now_ms
from registry.months import month_of
from registry.ops import budgets, reconciliations
from registry.reconciliation.difference import Difference
from registry.reconciliation.look import Look


@pytest.fixture
def owner(admin: AdminApp, samples: Samples) -> Program:
    """A program with an owner's token."""
    return Program(admin, "owner")


def test_budgets_are_set_listed_with_what_is_spent_and_removed(
    owner: Program, admin: AdminApp, samples: Samples
) -> None:
    path = "/admin/v1/budgets/Acme%20Robotics/total"
    made = owner.ok("PUT", path, {"amount_usd": "0.001", "alert_percent": [50, 90], "kind": "soft"})["budget"]
    assert (made["scope_id"], made["amount_nusd"], made["kind"]) == (samples.tenant.id, 1_000_000, "soft")
    assert made["spent_nusd"] > 0, "what was spent earlier counts"
    owner.ok("PUT", f"/admin/v1/budgets/{samples.key_id}/day", {"amount_nusd": 5})
    listed = owner.ok("GET", "/admin/v1/budgets?tenant=Acme%20Robotics")["budgets"]
    assert {(one["scope_id"], one["period"]) for one in listed} == {
        (samples.tenant.id, "total"),
        (samples.key_id, "day"),
    }
    assert owner.ok("GET", "/admin/v1/budgets?tenant=Night%20Shift")["budgets"] == []
    with session_scope(admin.sessions) as session:
        budgets.record_alerts(session, budgets.spending(session, budgets.list_budgets(session), now_ms()))
    alerts = owner.ok("GET", "/admin/v1/budget-alerts?tenant=Acme%20Robotics")["alerts"]
    assert {(one["period"], one["percent"]) for one in alerts} >= {("total", 50), ("total", 90)}
    assert len(owner.ok("GET", "/admin/v1/budget-alerts?limit=1")["alerts"]) == 1
    assert owner.ok("DELETE", path)["removed"] == {"scope_id": samples.tenant.id, "period": "total"}
    assert owner.refused(404, "DELETE", path)["param"] == "period"
    assert owner.refused(404, "PUT", "/admin/v1/budgets/key_none/day", {"amount_usd": "1"})["code"] == "not_found"


@pytest.mark.parametrize(
    ("period", "body", "param"),
    [
        ("week", {"amount_usd": "1"}, "period"),
        ("day", {}, None),
        ("day", {"amount_usd": "1", "amount_nusd": 1}, None),
        ("day", {"amount_usd": "0"}, "amount_usd"),
        ("day", {"amount_usd": "-1"}, "amount_usd"),
        ("day", {"amount_nusd": 0}, "amount_nusd"),
        ("day", {"amount_usd": "1", "alert_percent": [0]}, "alert_percent.0"),
        ("day", {"amount_usd": "1", "kind": "firm"}, "kind"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_by_name(
    owner: Program, admin: AdminApp, period: str, body: Any, param: str | None
) -> None:
    before = audited(admin)
    assert owner.refused(400, "PUT", f"/admin/v1/budgets/Night%20Shift/{period}", body)["param"] == param
    assert audited(admin) == before


def test_invoices_are_told_as_json_and_csv(owner: Program, samples: Samples) -> None:
    month = month_of(now_ms())
    path = "/admin/v1/tenants/Acme%20Robotics/invoices"
    assert owner.ok("GET", path)["months"] == [month]
    invoice = owner.ok("GET", f"{path}/{month}")["invoice"]
    assert invoice["credits"][0]["reason"] == "Invoice 2026-117"
    assert invoice["closing_nusd"] == sum(invoice["totals_nusd"].values())
    TypeAdapter(InvoiceDocument).validate_python(invoice, strict=True)
    assert set(invoice) == set(InvoiceDocument.__annotations__)
    csv = owner.send("GET", f"{path}/{month}.csv")
    assert csv.content_type.startswith("text/csv")
    assert "opening balance" in csv.text
    for wrong in ("2026-13", "2099-01", "November"):
        assert owner.refused(400, "GET", f"{path}/{wrong}")["param"] == "month"
        assert owner.refused(400, "GET", f"{path}/{wrong}.csv")["param"] == "month"
    assert owner.refused(404, "GET", f"/admin/v1/tenants/nobody/invoices/{month}")["param"] == "tenant"


def test_what_a_start_has_cost_is_told_beside_it_and_by_tenant(
    owner: Program, admin: AdminApp, samples: Samples
) -> None:
    path = f"/admin/v1/cold-starts/{samples.cold_start.id}"
    assert owner.ok("GET", path)["cost"] is None
    with session_scope(admin.sessions) as session:
        add_start_cost(session, samples, now_ms())
    cost = owner.ok("GET", path)["cost"]
    assert (cost["startup_gpu_us"], cost["waited"], cost["idle_gpu_us"]) == (9_000_000, 3, None)
    assert cost["shares"] == [
        {"tenant_id": samples.tenant.id, "tenant": "Acme Robotics", "requests": 3, "gpu_us": 9_000_000,
         "cost_nusd": 7_200_000, "cost_usd": "0.0072", "charged": True}
    ]  # fmt: skip
    shares = owner.ok("GET", "/admin/v1/usage/cold-starts?tenant=Acme%20Robotics&model=small")["cold_starts"]
    assert [(one["starts"], one["cost_usd"], one["charged_nusd"]) for one in shares] == [(1, "0.0072", 7_200_000)]
    assert owner.ok("GET", "/admin/v1/usage/cold-starts?until_ms=1")["cold_starts"] == []


def test_the_last_comparison_of_the_books_is_told(owner: Program, admin: AdminApp) -> None:
    assert owner.ok("GET", "/admin/v1/reconciliation") == {"reconciliation": None}
    look = Look({"balances": 2}, [Difference("balance", "ten_1", "5", "it is 5 too high")])
    with session_scope(admin.sessions) as session:
        row = reconciliations.begin(session, look, 1000, None)
        reconciliations.finish(session, row.id, look, 11_000)
    told = owner.ok("GET", "/admin/v1/reconciliation")["reconciliation"]
    assert (told["at_ms"], told["compared"], told["differences"][0]["sentence"]) == (
        11_000,
        {"balances": 2},
        "it is 5 too high",
    )
