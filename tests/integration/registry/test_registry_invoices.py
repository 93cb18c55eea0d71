"""Invoices: every entry on one of them, once; sums as the ledger's; a closed month stays as it is."""

import csv
import io
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select
from support.priced_starts import add_start, waiter
from support.registry_rows import add_model, add_tenant, current_price, usage_event

from registry.db import SessionFactory, read_scope, session_scope
from registry.errors import InvalidError
from registry.models import Invoice, LedgerEntry, Usage
from registry.months import borders_ms, month_of, next_month
from registry.ops import group_costs, invoices, ledger, money, prices, usage


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


OCTOBER, NOVEMBER, DECEMBER = ms("2026-10-01"), ms("2026-11-01"), ms("2026-12-01")


class Books:
    """A tenant since October, a model with two prices; what is done happens at the time that the test says."""

    def __init__(self, sessions: SessionFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sessions = sessions
        self.patch = monkeypatch
        self.at(OCTOBER)
        with session_scope(sessions) as session:
            self.tenant, self.model = add_tenant(session), add_model(session, gpu_second_nusd=1000)
            self.other = add_tenant(session, "other")
            self.price = current_price(session, self.model)
            self.tenant.created_at_ms = self.other.created_at_ms = OCTOBER
            self.model.charge_cold_starts = True
            self.price.from_ms = 0

    def at(self, at_ms: int) -> None:
        for module in (ledger, money):
            self.patch.setattr(module, "now_ms", lambda: at_ms)

    def settle(self, price=None, **changes) -> str:
        event = usage_event(self.tenant, self.model, price or self.price, **changes)
        with session_scope(self.sessions) as session:
            assert not ledger.settle(session, [event]).rejected
        return event["attempt_id"]

    def enter(self, amount: int, reason: str = "why", tenant=None) -> None:
        with session_scope(self.sessions) as session:
            enter = money.top_up if amount > 0 else money.adjust
            enter(session, "ada", (tenant or self.tenant).id, amount, reason)

    def invoice(self, month: str, now_ms: int):
        with read_scope(self.sessions) as session:
            return invoices.invoice(session, self.tenant.id, month, now_ms)

    def close(self, now_ms: int) -> int:
        with session_scope(self.sessions) as session:
            return invoices.close_months(session, now_ms)


@pytest.fixture
def books(session_factory: SessionFactory, monkeypatch: pytest.MonkeyPatch) -> Books:
    return Books(session_factory, monkeypatch)


def test_months_begin_and_end_in_utc() -> None:
    assert borders_ms("2026-12") == (DECEMBER, ms("2027-01-01"))
    assert (month_of(NOVEMBER), month_of(NOVEMBER - 1), next_month("2026-12")) == ("2026-11", "2026-10", "2027-01")
    for wrong in ("2026-13", "2026-1", "november", "2026-11-01", "1999-01", "2026-११"):
        with pytest.raises(InvalidError):
            borders_ms(wrong)


def test_an_invoice_has_usage_by_price_and_everything_else_apart(books: Books) -> None:
    books.at(NOVEMBER - 1)
    books.enter(10**9, "October's money")
    books.at(NOVEMBER)
    books.settle()
    books.settle()
    books.settle(outcome="upstream_error", completion_tokens=0)
    with session_scope(books.sessions) as session:
        dearer = prices.set_price(session, "t", books.model.id, input_nusd=100, output_nusd=100)
    books.settle(dearer, cached_tokens=0)
    books.enter(5_000, "a gift")
    books.enter(-70, "billed twice")
    books.enter(99, "not ours", books.other)
    found = books.invoice("2026-11", NOVEMBER + 1)
    assert (found["state"], found["opening_nusd"]) == ("so far", 10**9)
    lines = {line["price_id"]: line for line in found["usage"]}
    old, new = lines[books.price.id], lines[dearer.id]
    assert (old["requests"], old["prompt_tokens"], old["cached_tokens"], old["completion_tokens"]) == (2, 200, 80, 20)
    assert (old["amount_nusd"], new["amount_nusd"]) == (-6400, -11_000)
    assert old["price"]["output_nusd"] == 80
    assert [(line["amount_nusd"], line["reason"], line["author"]) for line in found["credits"]] == [
        (5_000, "a gift", "ada")
    ]
    assert [line["reason"] for line in found["adjustments"]] == ["billed twice"]
    assert found["closing_nusd"] == 10**9 - 6400 - 11_000 + 5_000 - 70


def test_charges_for_cold_starts_are_lines_of_their_own(books: Books) -> None:
    with session_scope(books.sessions) as session:
        group = add_start(session, books.model)
        ledger.settle(session, [waiter(group, books.tenant, books.model, books.price)])
        group_costs.complete(session, NOVEMBER, split_before_ms=2**50, awaited={})
    found = books.invoice("2026-11", NOVEMBER + 1)
    (line,) = found["cold_starts"]
    assert (line["model"], line["cold_starts"], line["waited_requests"]) == (books.model.name, 1, 1)
    assert (line["gpu_us"], line["amount_nusd"]) == (4_000_000, -4_000)
    assert found["totals_nusd"]["cold_starts"] == -4_000


def test_a_closed_month_stays_as_it_was_and_what_comes_late_is_on_the_next(books: Books) -> None:
    lost = books.settle(outcome="gateway_lost", completion_tokens=1)
    assert books.invoice("2026-10", NOVEMBER + 1)["state"] == "closing"
    assert books.close(NOVEMBER + 599_999) == 0
    assert books.close(NOVEMBER + 600_001) == 2, "of both tenants"
    assert books.close(NOVEMBER + 600_001) == 0
    closed = books.invoice("2026-10", NOVEMBER + 600_001)
    assert closed["state"] == "closed"
    assert closed["number"] == f"{closed['tenant_id']}-2026-10"
    books.at(NOVEMBER + 700_000)
    books.settle(attempt_id=lost)
    books.settle(ended_at_ms=OCTOBER + 5)
    with session_scope(books.sessions) as session:
        books.model.name = "renamed"
        session.merge(books.model)
    assert books.invoice("2026-10", DECEMBER) == closed
    november = books.invoice("2026-11", NOVEMBER + 700_001)
    assert [(line["attempt_id"], line["amount_nusd"]) for line in november["corrections"]] == [(lost, -9 * 80)]
    assert [line["requests"] for line in november["usage"]] == [1]
    assert november["opening_nusd"] == closed["closing_nusd"]


def test_months_that_nobody_closed_are_closed_in_order(books: Books) -> None:
    books.enter(7)
    assert books.close(ms("2027-02-03")) == 8
    with read_scope(books.sessions) as session:
        documents = [row.document for row in session.scalars(select(Invoice).order_by(Invoice.month))]
    mine = [one for one in documents if one["tenant_id"] == books.tenant.id]
    assert [one["month"] for one in mine] == ["2026-10", "2026-11", "2026-12", "2027-01"]
    assert [one["opening_nusd"] for one in mine] == [0, 7, 7, 7]


def test_what_was_not_answered_at_all_is_no_line_and_no_answered_request(books: Books) -> None:
    books.settle(outcome="upstream_error", prompt_tokens=0, cached_tokens=0, completion_tokens=0)
    assert books.invoice("2026-10", OCTOBER + 1)["usage"] == []
    books.settle()
    (line,) = books.invoice("2026-10", OCTOBER + 1)["usage"]
    with read_scope(books.sessions) as session:
        totals = usage.usage_totals(session, usage.UsageFilter())
    assert (totals.requests, totals.answered, line["requests"]) == (2, 1, 1)


def test_a_month_before_the_tenant_was_made_has_no_invoice(books: Books) -> None:
    with pytest.raises(InvalidError, match="acme was made in 2026-10"):
        books.invoice("2026-09", NOVEMBER)


def test_a_month_that_has_not_begun_has_no_invoice(books: Books) -> None:
    with pytest.raises(InvalidError, match="has not begun"):
        books.invoice("2026-11", NOVEMBER - 1)


STEP = st.tuples(
    st.sampled_from(["settle", "lost", "correct", "credit", "adjust"]), st.integers(0, 2), st.integers(1, 10**6)
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=14))
def test_invoices_sum_to_the_ledger_to_the_nano_dollar(books: Books, steps: list[tuple[str, int, int]]) -> None:
    with session_scope(books.sessions) as session:
        for table in (Invoice, LedgerEntry, Usage):
            session.execute(delete(table))
    borders = (OCTOBER, NOVEMBER, DECEMBER)
    lost: list[str] = []
    for what, month, amount in sorted(steps, key=lambda step: step[1]):
        # Closed before anything of the next month can replace what was told.
        books.close(borders[month] + invoices.CLOSING_MS + 1)
        books.at(borders[month] + amount)
        if what == "credit":
            books.enter(amount)
        elif what == "adjust":
            books.enter(-amount)
        elif what == "correct" and lost:
            books.settle(attempt_id=lost.pop(), completion_tokens=50)
        else:
            outcome = "gateway_lost" if what == "lost" else "ok"
            attempt = books.settle(outcome=outcome, completion_tokens=amount % 40)
            lost += [attempt] if what == "lost" else []
    balance = 0
    for begin, end in zip(borders, (NOVEMBER, DECEMBER, ms("2027-01-01")), strict=True):
        found = books.invoice(month_of(begin), end)
        with read_scope(books.sessions) as session:
            total = session.scalar(
                select(func.sum(LedgerEntry.amount_nusd)).where(LedgerEntry.at_ms >= begin, LedgerEntry.at_ms < end)
            )
        assert found["opening_nusd"] == balance
        assert found["closing_nusd"] == balance + int(total or 0) == balance + sum(found["totals_nusd"].values())
        balance = found["closing_nusd"]
        rows = list(csv.DictReader(io.StringIO(invoices.to_csv(found))))
        assert sum(int(row["amount_nusd"]) for row in rows[:-1]) == int(rows[-1]["amount_nusd"]) == balance
        assert all(money.parse_dollars(row["amount_usd"]) == int(row["amount_nusd"]) for row in rows)
        for line in found["usage"]:
            price = line["price"]
            assert -line["amount_nusd"] == (
                (line["prompt_tokens"] - line["cached_tokens"]) * price["input_nusd"]
                + line["cached_tokens"] * price["cached_input_nusd"]
                + line["completion_tokens"] * price["output_nusd"]
                + line["requests"] * price["request_nusd"]
            )
