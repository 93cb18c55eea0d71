"""Usage and ledger: filters, totals, the reader's calendar, pages and CSV."""

import csv
import io
from datetime import UTC, datetime

import pytest
from support.admin_app import AdminApp
from support.admin_samples import Samples
from support.priced_starts import add_start, waiter
from support.registry_rows import USAGE_EVENT_COST_NUSD, add_model, current_price, usage_event

from admin_ui.read.usage import usage_over_time
from admin_ui.zones import zone_named
from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import Usage
from registry.ops import group_costs, ledger, money, reconciliations
from registry.ops.usage import UsageFilter
from registry.reconciliation.difference import Difference
from registry.reconciliation.look import Look

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_totals_are_exact_and_follow_the_filter(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("viewer")
    with read_scope(admin.sessions) as session:
        spent = sum(row.cost_nusd for row in session.query(Usage))
    assert f"${money.format_dollars(spent)}" in client.get("/usage?period=30d").text
    assert "No requests in this time" in client.get("/usage?period=dates&first=2020-01-01&last=2020-01-02").text
    other = client.get("/tenants").text.split(">Night Shift<")[0].rsplit("/tenants/", 1)[1].rstrip('"')
    assert "No requests in this time" in client.get(f"/usage?tenant={other}").text
    assert "No requests in this time" not in client.get(f"/usage?tenant={samples.tenant.id}").text
    assert "No requests in this time" not in client.get(f"/usage?model={samples.model.id}").text


def test_a_first_token_is_told_of_streams_and_a_start_of_requests_that_were_held(
    admin: AdminApp, samples: Samples
) -> None:
    start = samples.cold_start.id
    path = f'href="/models/cold-starts/{start}"'
    now = now_ms()
    times = {"started_at_ms": now - 9_000, "first_token_at_ms": now - 1_766, "ended_at_ms": now, "cold_start_id": start}
    with session_scope(admin.sessions) as session:
        price = current_price(session, samples.model)
        for stream, held_ms in ((True, 3_210), (False, 0)):
            event = usage_event(samples.tenant, samples.model, price, stream=stream, held_ms=held_ms, **times)
            ledger.settle(session, [event])
    page = admin.signed_in("viewer").get("/usage?period=24h").text
    assert page.count("7.23 s") == 1
    assert page.count(path) == 1
    assert f"{path}>3.21 s</a>" in page


@pytest.mark.parametrize(
    "query", ["period=forever", "tenant=ten_nobody", "model=x", "first=yesterday", "offset=-5", "offset=x", "before=x"]
)
def test_a_mistyped_filter_falls_back_to_its_default(admin: AdminApp, samples: Samples, query: str) -> None:
    client = admin.signed_in("viewer")
    assert "No requests in this time" not in client.get(f"/usage?{query}").text
    assert client.get(f"/ledger?{query}").status_code == 200
    assert client.get(f"/usage/export.csv?{query}").status_code == 200


def test_days_in_the_wrong_order_are_refused(admin: AdminApp) -> None:
    client = admin.signed_in("viewer")
    answer = client.get("/usage?period=dates&first=2026-11-02&last=2026-11-01")
    assert answer.status_code == 422
    assert "must not come after the last" in answer.text
    answer = client.get("/usage?period=dates&first=2020-01-01&last=2026-11-01")
    assert "At most a year" in answer.text


def test_older_attempts_are_on_the_next_page(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("viewer")
    assert "offset=50" in client.get("/usage?period=30d").text
    last = client.get("/usage?period=30d&offset=100").text
    assert "Newest" in last
    assert "Older" not in last


def test_the_csv_has_every_attempt_and_exact_money(admin: AdminApp, samples: Samples) -> None:
    answer = admin.signed_in("viewer").get("/usage/export.csv?period=30d")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="hydrant-usage.csv"'
    rows = rows_of(answer.text)
    with read_scope(admin.sessions) as session:
        stored = {row.attempt_id: row.cost_nusd for row in session.query(Usage)}
    assert {row["attempt_id"]: int(row["cost_nusd"]) for row in rows} == stored
    assert all(money.parse_dollars(row["cost_usd"]) == int(row["cost_nusd"]) for row in rows)


def test_estimated_counts_are_marked(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("viewer")
    assert "estimated" not in client.get("/usage?period=24h").text
    with session_scope(admin.sessions) as session:
        price = current_price(session, samples.model)
        event = usage_event(samples.tenant, samples.model, price, ended_at_ms=now_ms(), estimated=True)
        ledger.settle(session, [event])
    assert ">estimated<" in client.get("/usage?period=24h").text
    rows = rows_of(client.get("/usage/export.csv?period=30d").text)
    assert {row["estimated"] for row in rows if row["attempt_id"] == event["attempt_id"]} == {"True"}
    assert {row["estimated"] for row in rows if row["attempt_id"] != event["attempt_id"]} == {"False"}


@pytest.mark.parametrize("formula", ["=1+1", "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_runs_nothing_from_a_csv(admin: AdminApp, samples: Samples, formula: str) -> None:
    with session_scope(admin.sessions) as session:
        price = current_price(session, samples.model)
        now = now_ms()
        event = usage_event(samples.tenant, samples.model, price, request_id=formula, ended_at_ms=now)
        ledger.settle(session, [event])
        if formula.isprintable():
            money.top_up(session, "owner@example.org", samples.tenant.id, 1, formula)
    client = admin.signed_in("viewer")
    usage = rows_of(client.get("/usage/export.csv").text)
    assert "'" + formula in {row["request_id"] for row in usage}
    if formula.isprintable():
        assert "'" + formula in {row["reason"] for row in rows_of(client.get("/ledger/export.csv").text)}
    for row in usage:
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row.values())


def test_negative_amounts_stay_numbers_in_the_ledgers_csv(admin: AdminApp, samples: Samples) -> None:
    rows = rows_of(admin.signed_in("viewer").get(f"/ledger/export.csv?tenant={samples.tenant.id}").text)
    with read_scope(admin.sessions) as session:
        assert sum(int(row["amount_nusd"]) for row in rows) == money.balance_nusd(session, samples.tenant.id)
    assert any(row["amount_usd"].startswith("-0.") for row in rows)


def test_the_ledger_filters_by_tenant_and_kind_and_pages_by_id(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("viewer")
    top_ups = client.get(f"/ledger?tenant={samples.tenant.id}&kind=top_up").text
    assert "Invoice 2026-117" in top_ups
    assert ">settle<" not in top_ups
    assert ">settle<" in client.get(f"/ledger?tenant={samples.tenant.id}&kind=settle").text
    first = client.get("/ledger").text
    older = first.split("/ledger?before=")[1].split('"')[0]
    second = client.get(f"/ledger?before={older}").text
    assert set(_attempts(first)).isdisjoint(_attempts(second))
    assert "Newest" in second


def _attempts(page: str) -> list[str]:
    return [part.split("<")[0] for part in page.split("<code>att_")[1:]]


def test_a_day_is_the_readers_day(admin: AdminApp, samples: Samples) -> None:
    """22:30 UTC on 9 May is already 10 May in Kolkata (UTC+5:30)."""
    ended = ms("2026-05-09T22:30:00")
    with session_scope(admin.sessions) as session:
        price = current_price(session, samples.model)
        ledger.settle(session, [usage_event(samples.tenant, samples.model, price, ended_at_ms=ended)])
    wanted = UsageFilter(from_ms=ms("2026-05-07T00:00:00"), until_ms=ms("2026-05-11T00:00:00"))
    for zone_name, day in (("UTC", "Sat 09 May 2026"), ("Asia/Kolkata", "Sun 10 May 2026")):
        with read_scope(admin.sessions) as session:
            found = usage_over_time(session, wanted, zone_named(zone_name)[0])
        assert [(one.label, one.tokens, one.requests) for one in found if one.tokens] == [(day, 110, 1)]
        assert sum(one.cost_nusd for one in found) == USAGE_EVENT_COST_NUSD


def test_hours_and_a_day_of_25_hours(admin: AdminApp, samples: Samples) -> None:
    zone, _name = zone_named("Europe/Berlin")
    day = UsageFilter(from_ms=ms("2026-10-24T22:00:00"), until_ms=ms("2026-10-25T23:00:00"))
    with read_scope(admin.sessions) as session:
        hours = usage_over_time(session, day, zone)
        wider = UsageFilter(from_ms=ms("2026-10-23T22:00:00"), until_ms=ms("2026-10-26T23:00:00"))
        days = usage_over_time(session, wider, zone)
    assert len(hours) == 25
    assert [one.short for one in hours].count("02:00") == 2
    assert [one.short for one in days] == ["24 Oct", "25 Oct", "26 Oct"]


def test_the_browsers_zone_is_taken_from_its_cookie(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("viewer")
    for cookie, shown in (("Asia%2FTokyo", "(Asia/Tokyo)"), ("../../etc/passwd", "(UTC)"), ("Nowhere/At-all", "(UTC)")):
        client.set_cookie("hydrant_zone", cookie)
        assert shown in client.get("/usage").text


def test_a_time_without_both_ends_is_refused(admin: AdminApp) -> None:
    with read_scope(admin.sessions) as session, pytest.raises(ValueError, match="a beginning and an end"):
        usage_over_time(session, UsageFilter(from_ms=0), UTC)


@pytest.mark.parametrize(
    "path",
    [
        "/usage?period=dates&last=9999-12-31",
        "/usage?period=dates&last=0001-01-02",
        "/usage?period=dates&first=0001-01-01&last=9999-12-31",
        "/usage/export.csv?period=dates&last=9999-12-31",
        f"/usage?offset={10**20}",
        "/usage?offset=-5",
        f"/ledger?before={10**20}",
        f"/ledger?before=-{10**20}",
        f"/audit?before={10**20}",
        "/audit?subject=%00",
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_no_address_breaks_a_page(admin: AdminApp, samples: Samples, path: str, zone: str) -> None:
    client = admin.signed_in("viewer")
    client.set_cookie("hydrant_zone", zone)
    assert client.get(path).status_code in (200, 422)


def test_the_ledger_says_how_much_could_not_be_billed(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("viewer")
    assert "could not be billed" not in client.get("/ledger").text
    with session_scope(admin.sessions) as session:
        ledger.settle(session, [{"attempt_id": "att_broken"}])
    page = client.get("/ledger").text
    assert "1 usage event could not be billed" in page
    assert "hydrant usage rejected" in page


def test_what_a_cold_start_has_cost_is_on_its_its_models_and_the_usage_page(admin: AdminApp, samples: Samples) -> None:
    with session_scope(admin.sessions) as session:
        model = add_model(session, "dear", gpu_second_nusd=250_000)
        price = current_price(session, model)
        price.from_ms = 0
        session.flush()
        group = add_start(session, model)
        ledger.settle(session, [waiter(group, samples.tenant, model, price)])
        group_costs.complete(session, now_ms(), split_before_ms=now_ms(), awaited={})
    client = admin.signed_in("viewer")
    start = client.get(f"/models/cold-starts/{group.cold_start_id}").text
    assert "4.000 GPU s" in start
    assert "$0.001" in start
    assert "Acme Robotics" in start
    assert "4.000 GPU s" in client.get(f"/models/{model.id}").text
    usage = client.get("/usage?period=24h").text
    assert "Cold starts waited for" in usage
    assert "Cold starts waited for" not in client.get(f"/usage?period=24h&model={samples.model.id}").text


def test_the_ledger_says_whether_the_books_agree(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("viewer")
    assert "Not reconciled yet" in client.get("/ledger").text
    with session_scope(admin.sessions) as session:
        reconciliations.begin(session, Look({"usage": 1}, []), now_ms(), None)
    assert "no difference between events" in client.get("/ledger").text
    with session_scope(admin.sessions) as session:
        look = Look({"usage": 1}, [Difference("cost_differs", "att_1", "", "attempt att_1 <costs> more")])
        row = reconciliations.begin(session, look, now_ms(), None)
        assert "The books differ" not in client.get("/ledger").text, "it was not looked at twice"
        reconciliations.finish(session, row.id, look, now_ms())
    assert "attempt att_1 &lt;costs&gt; more" in client.get("/ledger").text
