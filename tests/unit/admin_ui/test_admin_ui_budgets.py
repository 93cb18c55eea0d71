"""Budgets on the pages of tenants and keys: set, shown with their use, removed; alerts where people look."""

import pytest
from support.admin_app import AdminApp, send
from support.admin_samples import Samples

from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import Budget
from registry.ops import budgets, keys


def test_a_budget_is_set_changed_shown_and_removed(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("owner")
    for scope_id, page in (
        (samples.tenant.id, f"/tenants/{samples.tenant.id}"),
        (samples.key_id, f"/keys/{samples.key_id}"),
    ):
        fields = {"period": "month", "budget_amount": "100", "alert_percent": "50, 80", "hard": "y"}
        answer = send(client, f"/budgets/{scope_id}", fields)
        assert (answer.status_code, answer.location) == (302, page)
        answer = send(client, f"/budgets/{scope_id}", {**fields, "budget_amount": "0.5", "hard": ""})
        with read_scope(admin.sessions) as session:
            row = session.get(Budget, (scope_id, "month"))
            assert (row.amount_nusd, row.alert_percent, row.hard) == (500_000_000, [50, 80], False)
        text = client.get(page).text
        for shown in ("refuses nothing", "$0.50", 'class="bar"'):
            assert shown in text
        send(client, f"/budgets/{scope_id}/month/remove", {})
        assert "No budget" in client.get(page).text
    assert "budget.set" in client.get(f"/audit?subject={samples.tenant.id}").text


def test_a_tenants_page_shows_its_keys_budgets_too(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("viewer")
    page = f"/tenants/{samples.tenant.id}"
    assert "Spending is bounded by the balance alone" in client.get(page).text
    with session_scope(admin.sessions) as session:
        budgets.set_budget(session, "t", samples.key_id, "month", amount_nusd=20 * 10**9)
    text = client.get(page).text
    assert "$0.00 of $20.00" in text
    assert "No budget of the whole tenant" in text
    with session_scope(admin.sessions) as session:
        keys.revoke_key(session, "t", samples.key_id)
    assert "of $20.00" not in client.get(page).text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget_amount": ""}, "The budget is not set."),
        ({"budget_amount": "-1"}, "must be more than $0.00"),
        ({"alert_percent": "many"}, "Enter percents"),
        ({"alert_percent": "120"}, "from 1 to 100"),
    ],
)
def test_what_is_no_budget_says_why(admin: AdminApp, samples: Samples, fields: dict[str, str], message: str) -> None:
    client = admin.signed_in("owner")
    page = f"/tenants/{samples.tenant.id}"
    send(client, f"/budgets/{samples.tenant.id}", {"period": "day", "budget_amount": "1", **fields})
    assert message in client.get(page).text
    with read_scope(admin.sessions) as session:
        assert budgets.list_budgets(session) == []


def test_alerts_are_shown_on_the_tenants_page_and_the_overview(admin: AdminApp, samples: Samples) -> None:
    with session_scope(admin.sessions) as session:
        row = budgets.set_budget(session, "t", samples.tenant.id, "total", amount_nusd=1, alert_percent=[90])
        assert len(budgets.record_alerts(session, budgets.spending(session, [row], now_ms()))) == 1
    client = admin.signed_in("viewer")
    for page in ("/", f"/tenants/{samples.tenant.id}"):
        assert "reached 90 % of a budget" in client.get(page).text
    with session_scope(admin.sessions) as session:
        row = budgets.set_budget(session, "t", samples.key_id, "total", amount_nusd=1, alert_percent=[90])
        assert len(budgets.record_alerts(session, [budgets.Spending(row, 0, spent_nusd=1, ends_at_ms=None)])) == 1
    for page in ("/", f"/tenants/{samples.tenant.id}"):
        assert f'(key <a href="/keys/{samples.key_id}">website chat</a>) reached 90 %' in client.get(page).text
