"""The ledger: each attempt billed once, exactly, whatever is delivered how often and by whom."""

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select
from support.registry_rows import USAGE_EVENT_COST_NUSD, add_model, add_tenant, current_price, usage_event

from registry.db import SessionFactory, read_scope, session_scope
from registry.errors import InvalidError, NotFoundError
from registry.models import Audit, LedgerEntry, Model, Price, RejectedUsage, Tenant, Usage
from registry.ops import ledger, money, prices

Rows = tuple[Tenant, Model, Price]


@pytest.fixture
def rows(session_factory: SessionFactory) -> Rows:
    with session_scope(session_factory) as session:
        tenant, model = add_tenant(session), add_model(session)
        huge = prices.MAX_PRICE_NUSD
        session.add(
            Price(
                id="pri_huge",
                model_id=model.id,
                from_ms=0,
                input_nusd=huge,
                cached_input_nusd=huge,
                output_nusd=huge,
                request_nusd=huge,
                created_at_ms=0,
            )
        )
        return tenant, model, current_price(session, model)


def settle(session_factory: SessionFactory, *events: Any) -> ledger.Settlement:
    with session_scope(session_factory) as session:
        return ledger.settle(session, events)


def balance(session_factory: SessionFactory, tenant: Tenant) -> int:
    with read_scope(session_factory) as session:
        return money.balance_nusd(session, tenant.id)


def test_an_attempt_costs_what_its_price_says(session_factory: SessionFactory, rows: Rows) -> None:
    event = usage_event(*rows)
    result = settle(session_factory, event)
    assert (result.settled, result.tenant_ids) == ([event["attempt_id"]], {rows[0].id})
    assert balance(session_factory, rows[0]) == -USAGE_EVENT_COST_NUSD == -3200
    with read_scope(session_factory) as session:
        stored = session.scalars(select(Usage)).one()
        assert stored.cost_nusd == 3200
        for name, value in event.items():
            if name != "reserved_nusd":
                assert getattr(stored, "model_name" if name == "model" else name) == value


def test_the_price_is_the_one_the_event_names_not_the_one_in_force(session_factory: SessionFactory, rows: Rows) -> None:
    tenant, model, old = rows
    with session_scope(session_factory) as session:
        prices.set_price(session, "tester", model.id, input_nusd=10**6, output_nusd=10**6)
    settle(session_factory, usage_event(tenant, model, old))
    assert balance(session_factory, tenant) == -3200


@pytest.mark.parametrize(
    ("outcome", "completion_tokens", "cost"),
    [
        ("ok", 0, 2400),
        ("client_closed", 0, 0),
        ("upstream_error", 0, 0),
        ("gateway_lost", 0, 0),
        ("client_closed", 1, 2480),
        ("gateway_lost", 10, 3200),
    ],
)
def test_what_delivered_nothing_costs_nothing(
    session_factory: SessionFactory, rows: Rows, outcome: str, completion_tokens: int, cost: int
) -> None:
    settle(session_factory, usage_event(*rows, outcome=outcome, completion_tokens=completion_tokens))
    assert balance(session_factory, rows[0]) == -cost


def test_repeated_deliveries_change_nothing(session_factory: SessionFactory, rows: Rows) -> None:
    event = usage_event(*rows)
    other = usage_event(*rows)
    first = settle(session_factory, event, dict(event), other, event)
    assert sorted(first.settled) == sorted([event["attempt_id"], other["attempt_id"]])
    assert first.repeated == [event["attempt_id"]] * 2
    # A later one may tell it differently (a sweep that settled a checkpoint): the first counts.
    again = settle(session_factory, {**event, "completion_tokens": 999}, other)
    assert again.settled == []
    assert sorted(again.repeated) == sorted(first.settled)
    # The first delivery may have died before it published the balance.
    assert again.tenant_ids == {rows[0].id}
    assert balance(session_factory, rows[0]) == -2 * 3200
    with read_scope(session_factory) as session:
        assert session.scalar(select(func.count()).select_from(Usage)) == 2
        assert session.scalar(select(func.count()).select_from(LedgerEntry)) == 2


def test_the_end_of_an_attempt_that_was_taken_for_lost_is_billed_once(
    session_factory: SessionFactory, rows: Rows
) -> None:
    lost = usage_event(*rows, outcome="gateway_lost")
    final = {**lost, "outcome": "ok", "completion_tokens": 30, "ended_at_ms": 9_000}
    settle(session_factory, lost)
    result = settle(session_factory, final, usage_event(*rows))
    assert (result.corrected, result.repeated) == ([lost["attempt_id"]], [])
    for again in (final, {**final, "completion_tokens": 99}, lost):
        assert settle(session_factory, again).repeated == [lost["attempt_id"]]
    assert balance(session_factory, rows[0]) == -3200 - (3200 + 20 * 80)
    with read_scope(session_factory) as session:
        stored = session.get_one(Usage, lost["attempt_id"])
        assert (stored.outcome, stored.completion_tokens, stored.ended_at_ms) == ("ok", 30, 9_000)
        assert stored.cost_nusd == 3200 + 20 * 80
        entries = session.scalars(select(LedgerEntry).where(LedgerEntry.attempt_id == lost["attempt_id"]))
        assert sorted((entry.kind, entry.amount_nusd) for entry in entries) == [("adjust", -20 * 80), ("settle", -3200)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"outcome": "gateway_lost"}, {"outcome": "gateway_lost", "completion_tokens": 99}),
        ({"outcome": "gateway_lost"}, {"outcome": "ok", "completion_tokens": 9}),
        ({"outcome": "ok"}, {"outcome": "ok", "completion_tokens": 99}),
    ],
    ids=["lost twice", "no higher", "not lost"],
)
def test_nothing_else_that_comes_later_changes_a_bill(
    session_factory: SessionFactory, rows: Rows, first: dict[str, Any], second: dict[str, Any]
) -> None:
    event = usage_event(*rows, **first)
    settle(session_factory, event)
    result = settle(session_factory, {**event, **second})
    assert (result.corrected, result.repeated) == ([], [event["attempt_id"]])
    assert balance(session_factory, rows[0]) == -3200


def test_settlers_at_once_correct_a_bill_once(session_factory: SessionFactory, rows: Rows) -> None:
    lost = [usage_event(*rows, outcome="gateway_lost") for _ in range(20)]
    settle(session_factory, *lost)
    finals = [{**event, "outcome": "ok", "completion_tokens": 30} for event in lost]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: settle(session_factory, *finals), range(4)))
    assert sorted(one for result in results for one in result.corrected) == sorted(e["attempt_id"] for e in lost)
    assert balance(session_factory, rows[0]) == -20 * (3200 + 20 * 80)


def test_a_large_batch_is_settled_whole(session_factory: SessionFactory, rows: Rows) -> None:
    events = [usage_event(*rows) for _ in range(1200)]
    assert len(settle(session_factory, *events).settled) == 1200
    assert balance(session_factory, rows[0]) == -1200 * 3200


BREAKS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("tokens: a string", lambda event: {**event, "prompt_tokens": "100"}),
    ("prompt_tokens", lambda event: {**event, "prompt_tokens": -1}),
    ("prompt_tokens", lambda event: {**event, "prompt_tokens": 1.5}),
    ("prompt_tokens", lambda event: {**event, "prompt_tokens": 10**30}),
    ("completion_tokens", lambda event: {**event, "completion_tokens": True}),
    ("cached_tokens exceeds", lambda event: {**event, "cached_tokens": 101}),
    ("outcome", lambda event: {**event, "outcome": "paid"}),
    ("attempt_id", lambda event: {**event, "attempt_id": ""}),
    ("attempt_id", lambda event: {**event, "attempt_id": None}),
    ("attempt_id", lambda event: {**event, "attempt_id": "a" * 41}),
    ("tenant_id", lambda event: {name: value for name, value in event.items() if name != "tenant_id"}),
    ("tenant_id ten_x does not exist", lambda event: {**event, "tenant_id": "ten_x"}),
    ("price_id pri_x does not exist", lambda event: {**event, "price_id": "pri_x"}),
    ("price_id", lambda event: {**event, "price_id": None}),
    ("request_id", lambda event: {**event, "request_id": "nul \x00"}),
    ("request_id", lambda event: {**event, "request_id": "half a pair \ud800"}),
    ("cost", lambda event: {**event, "price_id": "pri_huge", "completion_tokens": 10**9}),
    ("event", lambda _event: None),
    ("event", lambda _event: ["attempt_id"]),
    ("event", lambda _event: "attempt_id"),
]


@pytest.mark.parametrize(("reason", "spoil"), BREAKS)
def test_a_bad_event_is_put_aside_and_blocks_no_other(
    session_factory: SessionFactory, rows: Rows, reason: str, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    good, bad = usage_event(*rows), spoil(usage_event(*rows))
    for _delivery in range(2):
        result = settle(session_factory, bad, good, bad)
        assert [one.reason for one in result.rejected if reason.split(":")[0] in one.reason]
    assert balance(session_factory, rows[0]) == -3200
    with read_scope(session_factory) as session:
        kept = session.scalars(select(RejectedUsage)).one()
        assert json.loads(kept.event) == bad
        assert kept in ledger.list_rejected(session)


def test_a_rejected_event_can_be_settled_once_its_cause_is_mended(session_factory: SessionFactory, rows: Rows) -> None:
    tenant, model, price = rows
    rejected = settle(session_factory, usage_event(tenant, model, price, price_id="pri_late")).rejected[0]
    with session_scope(session_factory) as session:
        assert ledger.retry_rejected(session, "tester", rejected.digest).rejected
    with session_scope(session_factory) as session:
        session.add(
            Price(
                id="pri_late",
                model_id=model.id,
                from_ms=0,
                input_nusd=1,
                cached_input_nusd=1,
                output_nusd=1,
                request_nusd=0,
                created_at_ms=0,
            )
        )
    for _try in range(2):
        with session_scope(session_factory) as session:
            assert not ledger.retry_rejected(session, "tester", rejected.digest).rejected
    assert balance(session_factory, tenant) == -110
    with read_scope(session_factory) as session:
        assert ledger.list_rejected(session) == []
    with pytest.raises(NotFoundError), session_scope(session_factory) as session:
        ledger.retry_rejected(session, "tester", "0" * 64)


def test_a_transaction_that_fails_bills_nothing(session_factory: SessionFactory, rows: Rows) -> None:
    event = usage_event(*rows)

    def settle_and_die() -> None:
        with session_scope(session_factory) as session:
            assert ledger.settle(session, [event]).settled
            raise RuntimeError("died before the commit")

    with pytest.raises(RuntimeError, match="died"):
        settle_and_die()
    assert balance(session_factory, rows[0]) == 0
    assert settle(session_factory, event).settled == [event["attempt_id"]]


def test_top_ups_and_adjustments_are_audited(session_factory: SessionFactory, rows: Rows) -> None:
    with session_scope(session_factory) as session:
        money.top_up(session, "ada@example.org", rows[0].id, 5_000_000_000, "invoice 7")
        money.adjust(session, "ada@example.org", rows[0].id, -1, "rounding of invoice 7")
    assert balance(session_factory, rows[0]) == 4_999_999_999
    with read_scope(session_factory) as session:
        actions = session.scalars(select(Audit.action).where(Audit.actor == "ada@example.org").order_by(Audit.id))
        assert list(actions) == ["money.top_up", "money.adjust"]
        assert (
            session.scalars(select(LedgerEntry).where(LedgerEntry.kind == "adjust")).one().author == "ada@example.org"
        )


@pytest.mark.parametrize("amount", [0, -1, 1.5, True, "5", 2**63])
def test_impossible_top_ups_are_refused(session_factory: SessionFactory, rows: Rows, amount: Any) -> None:
    with pytest.raises(InvalidError, match="amount"), session_scope(session_factory) as session:
        money.top_up(session, "tester", rows[0].id, amount, "why")
    with pytest.raises(InvalidError, match="reason"), session_scope(session_factory) as session:
        money.top_up(session, "tester", rows[0].id, 1, " ")
    with pytest.raises(NotFoundError), session_scope(session_factory) as session:
        money.top_up(session, "tester", "ten_missing", 1, "why")


def test_twenty_writers_keep_the_sum_right(session_factory: SessionFactory, rows: Rows) -> None:
    """Settlers with overlapping batches in different orders, and top-ups in between."""
    events = [usage_event(*rows) for _ in range(60)]

    def work(number: int) -> None:
        mine = random.Random(number).sample(events, 30)
        for start in range(0, 30, 10):
            settle(session_factory, *mine[start : start + 10])
            with session_scope(session_factory) as session:
                money.top_up(session, "tester", rows[0].id, 1_000 + number, "race")

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(20)))
    settle(session_factory, *events)
    topped_up = sum(3 * (1_000 + number) for number in range(20))
    assert balance(session_factory, rows[0]) == topped_up - 60 * 3200
    with read_scope(session_factory) as session:
        assert session.scalar(select(func.count()).select_from(Usage)) == 60
        assert money.balances_nusd(session) == {rows[0].id: topped_up - 60 * 3200}


tokens = st.integers(0, 10**9)
amounts = st.integers(0, prices.MAX_PRICE_NUSD)


@given(tokens, tokens, tokens, amounts, amounts, amounts, amounts)
def test_costs_are_whole_and_never_negative(
    uncached: int, cached: int, completion: int, per_input: int, per_cached: int, per_output: int, per_request: int
) -> None:
    price = Price(
        id="p", input_nusd=per_input, cached_input_nusd=per_cached, output_nusd=per_output, request_nusd=per_request
    )
    event = ledger.UsageEvent.model_construct(
        prompt_tokens=uncached + cached, cached_tokens=cached, completion_tokens=completion, outcome="ok"
    )
    cost = ledger.cost_nusd(event, price)
    assert isinstance(cost, int)
    assert cost == uncached * per_input + cached * per_cached + completion * per_output + per_request
