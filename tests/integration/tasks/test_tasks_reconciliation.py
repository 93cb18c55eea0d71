"""The comparison of the books: each kind of difference is found, and none while requests run."""

from __future__ import annotations

import json
import threading

import pytest
from sqlalchemy import delete, update
from support.fake_gateways import FakeGateway
from support.priced_starts import add_start, waiter
from support.registry_rows import add_model, add_tenant, current_price, usage_event
from support.watching import watched

from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import LedgerEntry, Reconciliation, Tenant, Usage
from registry.ops import budgets, group_costs, invoices, ledger, reconciliations
from registry.ops.money import top_up
from registry.publish import publish_balances
from registry.reconciliation.difference import confirmed
from registry.reconciliation.look import take_a_look

OLD_MS = 120_000


class Books:
    """A tenant, a model, a gateway that is alive, one settled attempt, and balances that are published."""

    def __init__(self, here) -> None:
        self.here = here
        self.redis = here.redis
        watched(self.redis)
        FakeGateway(self.redis, "gw-1").beat()
        with session_scope(here.sessions) as session:
            self.tenant, self.model = add_tenant(session), add_model(session, gpu_second_nusd=1000)
            self.price = current_price(session, self.model)
            self.price.from_ms = 0
            self.model.charge_cold_starts = True
            top_up(session, "tester", self.tenant.id, 10**9, "test")
            budgets.set_budget(session, "tester", self.tenant.id, "total", amount_nusd=10**9)
        self.budget = f"{self.tenant.id}:total:0"
        self.attempt = self.settle(self.event())
        self.publish()

    def event(self, **changes):
        ended = {"started_at_ms": now_ms() - OLD_MS - 1000, "ended_at_ms": now_ms() - OLD_MS, "first_token_at_ms": None}
        return usage_event(self.tenant, self.model, self.price, **{**ended, **changes})

    def settle(self, event) -> str:
        with session_scope(self.here.sessions) as session:
            ledger.settle(session, [event])
        return event["attempt_id"]

    def publish(self) -> None:
        with read_scope(self.here.sessions) as session:
            publish_balances(session, self.redis, [self.tenant.id])

    def open(self, event, *, final: bool = False, reserved: bool = True) -> str:
        if not final:
            event = {name: value for name, value in event.items() if name not in ("outcome", "ended_at_ms")}
        pipe = self.redis.pipeline(transaction=True)
        pipe.hset("hyd:attempts", event["attempt_id"], json.dumps(event))
        if reserved:
            pipe.hincrby("hyd:reserved", self.tenant.id, event["reserved_nusd"])
        pipe.execute()
        return event["attempt_id"]

    def sql(self, *statements) -> None:
        with session_scope(self.here.sessions) as session:
            for statement in statements:
                session.execute(statement)

    def look(self, since_ms: int | None = None):
        with read_scope(self.here.sessions) as session:
            return take_a_look(session, self.redis, now_ms(), since_ms).differences

    def kinds(self) -> list[str]:
        first, second = self.look(), self.look()
        found = confirmed(first, second)
        assert all(one.sentence and one.subject for one in found)
        return sorted(one.kind for one in found)

    def charged_start(self) -> None:
        with session_scope(self.here.sessions) as session:
            group = add_start(session, self.model)
            ledger.settle(session, [waiter(group, self.tenant, self.model, self.price)])
            group_costs.complete(session, now_ms(), split_before_ms=now_ms(), awaited={})
        self.publish()


@pytest.fixture
def books(here) -> Books:
    made = Books(here)
    assert made.kinds() == []
    return made


def test_books_with_a_charged_start_and_open_attempts_agree(books):
    books.charged_start()
    books.open(books.event())
    books.open(books.event(started_at_ms=now_ms(), gateway_id="gw-new"))
    books.open(books.event(ended_at_ms=now_ms()), final=True)
    in_budget = books.event(budgets=[books.budget])
    books.open(in_budget)
    books.redis.hincrby("hyd:budget:reserved", books.budget, in_budget["reserved_nusd"])
    books.redis.xadd("hyd:usage", {"event": json.dumps(books.event())})
    assert books.kinds() == []


def lost_charge(books):
    books.sql(delete(LedgerEntry).where(LedgerEntry.attempt_id == books.attempt))
    books.redis.delete("hyd:balance:rows")
    books.publish()


def lost_usage(books):
    books.sql(delete(Usage).where(Usage.attempt_id == books.attempt))
    books.redis.hdel("hyd:budget:spent", books.budget)
    books.publish()


def changed_charge(books):
    books.sql(update(LedgerEntry).where(LedgerEntry.attempt_id == books.attempt).values(amount_nusd=-1))
    books.publish()


def changed_tokens(books):
    books.sql(update(Usage).where(Usage.attempt_id == books.attempt).values(completion_tokens=11))


def lost_start_charge(books):
    books.charged_start()
    books.sql(delete(LedgerEntry).where(LedgerEntry.cold_start_id.is_not(None)))
    books.redis.delete("hyd:balance:rows")
    books.publish()


def start_charge_of_nobody(books):
    entry = {"tenant_id": books.tenant.id, "kind": "settle", "amount_nusd": -5, "cold_start_id": "cst_x"}
    with session_scope(books.here.sessions) as session:
        session.add(LedgerEntry(**entry, at_ms=now_ms()))
    books.publish()


def entry_in_a_closed_month(books):
    then = now_ms() - 32 * 86_400_000
    with session_scope(books.here.sessions) as session:
        session.get_one(Tenant, books.tenant.id).created_at_ms = then
        session.flush()
        invoices.close_months(session, now_ms())
        session.add(LedgerEntry(tenant_id=books.tenant.id, kind="adjust", amount_nusd=9, at_ms=then, reason="late"))
    books.publish()


def unbilled(books):
    books.settle(books.event(price_id="pri_lost"))


def lost_balance(books):
    books.redis.hdel("hyd:balance", books.tenant.id)


def changed_balance(books):
    books.redis.hincrby("hyd:balance", books.tenant.id, 1)


def unpublished_balance(books):
    with session_scope(books.here.sessions) as session:
        top_up(session, "tester", books.tenant.id, 7, "not published")


def reserved_by_nobody(books):
    books.redis.hincrby("hyd:reserved", books.tenant.id, 5)


def changed_spending(books):
    books.redis.hincrby("hyd:budget:spent", books.budget, 1)


def lost_spending(books):
    books.redis.hdel("hyd:budget:spent", books.budget)


def reserved_of_a_budget_by_nobody(books):
    books.redis.hincrby("hyd:budget:reserved", books.budget, 5)


def unreserved_in_a_budget(books):
    books.open(books.event(budgets=[books.budget]), reserved=True)


def unreserved_attempt(books):
    books.open(books.event(), reserved=False)


def waiting_event(books):
    books.redis.xadd("hyd:usage", {"event": json.dumps(books.event())}, id=f"{now_ms() - OLD_MS}-0")


def lost_event(books):
    books.open(books.event(), final=True)


def settled_and_open(books):
    books.open(books.event(attempt_id=books.attempt))


def silent_gateway(books):
    FakeGateway(books.redis, "gw-dead").beat(age_ms=OLD_MS)
    books.open(books.event(gateway_id="gw-dead"))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lost_charge, "usage_not_charged"),
        (lost_usage, "charge_without_usage"),
        (changed_charge, "charge_differs"),
        (changed_tokens, "cost_differs"),
        (lost_start_charge, "cold_start_charge_differs"),
        (start_charge_of_nobody, "cold_start_charge_differs"),
        (entry_in_a_closed_month, "invoice_differs"),
        (unbilled, "not_billed"),
        (lost_balance, "balance_missing"),
        (changed_balance, "balance_differs"),
        (unpublished_balance, "balance_behind"),
        (reserved_by_nobody, "reserved_differs"),
        (unreserved_attempt, "reserved_differs"),
        (changed_spending, "budget_differs"),
        (lost_spending, "budget_missing"),
        (reserved_of_a_budget_by_nobody, "reserved_differs"),
        (unreserved_in_a_budget, "reserved_differs"),
        (waiting_event, "event_waiting"),
        (lost_event, "event_lost"),
        (settled_and_open, "attempt_not_closed"),
        (silent_gateway, "attempt_abandoned"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_each_kind_of_difference_is_found_alone(books, make, kind):
    make(books)
    assert books.kinds() == [kind]


def test_a_look_at_new_rows_sees_what_was_corrected_now_in_whole(books):
    books.settle(books.event(outcome="gateway_lost", attempt_id="att_lost", completion_tokens=1))
    now = now_ms()
    books.settle(books.event(attempt_id="att_lost", ended_at_ms=now))
    books.publish()
    assert books.look(since_ms=now - 1) == []


# --- twice, before it is told ----------------------------------------------------------------------------------------


@pytest.fixture
def compare(books):
    from tasks.reconciliation import compare

    def later() -> Reconciliation | None:
        """As if the time for the next look had come."""
        books.sql(update(Reconciliation).values(began_at_ms=Reconciliation.began_at_ms - 300_001))
        return compare(books.here)

    return later


def test_a_difference_that_goes_is_not_told(books, compare):
    changed_balance(books)
    assert compare() is None
    books.redis.hincrby("hyd:balance", books.tenant.id, -1)
    row = compare()
    assert (row.differences, row.ended_at_ms is None) == ([], False)


def test_a_difference_that_moves_is_not_told_and_one_that_stays_is(books, compare):
    reserved_by_nobody(books)
    changed_balance(books)
    assert compare() is None
    books.redis.hincrby("hyd:reserved", books.tenant.id, 1)
    row = compare()
    assert [one["kind"] for one in row.differences] == ["balance_differs"]
    assert "in Redis" in row.differences[0]["sentence"]
    with books.here.sessions() as session:
        assert reconciliations.last(session).id == row.id


def test_looks_are_taken_when_it_is_time(books):
    from tasks.reconciliation import compare

    first = compare(books.here)
    assert (first.differences, first.since_ms, first.compared["usage"]) == ([], None, 1)
    assert compare(books.here) is None, "five minutes have not passed"
    books.sql(update(Reconciliation).values(began_at_ms=Reconciliation.began_at_ms - 300_001))
    changed_balance(books)
    assert compare(books.here) is None, "to be looked at again"
    assert compare(books.here) is None, "ten seconds have not passed"


def test_of_results_without_a_difference_the_newest_is_kept(books, compare):
    compare()
    changed_balance(books)
    compare()
    told = compare()
    books.redis.hincrby("hyd:balance", books.tenant.id, -1)
    newest = [compare() for _ in range(3)][-1]
    with books.here.sessions() as session:
        assert {row.id for row in session.query(Reconciliation)} == {told.id, newest.id}


def test_no_difference_is_told_while_requests_run(books, monkeypatch):
    from tasks import ledger as ledger_tasks

    # A pass over the stream ends, although more comes.
    monkeypatch.setattr(ledger_tasks, "BATCHES", 1)
    ended, passes, failures = threading.Event(), threading.Semaphore(0), []

    def requests() -> None:
        while not ended.wait(0.005):
            event = books.event(started_at_ms=now_ms(), ended_at_ms=now_ms())
            books.open(event)
            pipe = books.redis.pipeline(transaction=True)
            pipe.hset("hyd:attempts", event["attempt_id"], json.dumps({**event, "reserved_nusd": 3200}))
            pipe.hincrby("hyd:reserved", books.tenant.id, 3200 - event["reserved_nusd"])
            pipe.xadd("hyd:usage", {"event": json.dumps(event)})
            pipe.execute()

    def drain() -> None:
        while not ended.is_set():
            ledger_tasks.drain_stream(books.here)
            passes.release()

    def run(work) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in (requests, requests, drain)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            first = books.look()
            while passes.acquire(blocking=False):
                pass
            # What was under way at the first look is over when the ledger has gone through the stream twice.
            for _ in range(2):
                assert passes.acquire(timeout=60), failures
            assert confirmed(first, books.look()) == []
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
