"""The ledger's tasks on a real database and Redis: every attempt billed once, whatever is delivered how often."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import func, select
from support.fake_gateways import FakeGateway
from support.registry_rows import USAGE_EVENT_COST_NUSD, add_model, add_tenant, current_price, usage_event
from support.watching import watched

from registry.db import session_scope
from registry.ids import new_id, now_ms
from registry.models import ColdStart, ColdStartEvent, LedgerEntry, Model, ModelUse, RejectedUsage, Usage
from registry.ops.money import balance_nusd, top_up

PAID_IN = 10_000_000


class Books:
    """A tenant with money, a priced model, and the usage stream."""

    def __init__(self, here) -> None:
        self.here = here
        self.redis = here.redis
        watched(self.redis)
        with session_scope(here.sessions) as session:
            self.tenant = add_tenant(session)
            self.model = add_model(session)
            self.price = current_price(session, self.model)
            top_up(session, "tester", self.tenant.id, PAID_IN, "test")

    def event(self, **changes):
        return usage_event(self.tenant, self.model, self.price, **changes)

    def deliver(self, *events) -> None:
        for event in events:
            raw = event if isinstance(event, bytes | str) else json.dumps(event)
            self.redis.xadd("hyd:usage", {"event": raw})

    def open(self, **changes):
        """An open attempt as the gateway keeps it, with its reservation; started a minute ago."""
        event = self.event(started_at_ms=now_ms() - 60_000, **changes)
        for final in ("outcome", "ended_at_ms"):
            del event[final]
        self.redis.hset("hyd:attempts", event["attempt_id"], json.dumps(event))
        self.redis.hincrby("hyd:reserved", event["tenant_id"], event["reserved_nusd"])
        return event

    def drain(self) -> None:
        from tasks import ledger

        ledger.drain_stream(self.here)

    def sweep(self) -> None:
        from tasks import ledger

        ledger.sweep()

    @property
    def balance(self) -> int:
        with self.here.sessions() as session:
            return balance_nusd(session, self.tenant.id)

    def count(self, table) -> int:
        with self.here.sessions() as session:
            return session.scalar(select(func.count()).select_from(table))

    def assert_billed(self, times: int) -> None:
        """So many attempts of the usual size are billed, in SQL and in Redis, and nothing is left open."""
        assert self.balance == PAID_IN - times * USAGE_EVENT_COST_NUSD
        assert int(self.redis.hget("hyd:balance", self.tenant.id)) == self.balance
        assert self.count(Usage) == times
        assert self.redis.xlen("hyd:usage") == 0
        assert self.redis.xpending("hyd:usage", "ledger")["pending"] == 0
        assert self.redis.hgetall("hyd:attempts") == {}
        assert self.redis.hgetall("hyd:reserved") == {}


@pytest.fixture
def books(here) -> Books:
    return Books(here)


def test_an_event_is_billed_published_and_acknowledged(books):
    attempt = books.open()
    books.deliver(books.event(attempt_id=attempt["attempt_id"]))
    books.drain()
    books.assert_billed(1)


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
def test_a_doubled_event_is_billed_once(books, together):
    event = books.event()
    books.deliver(event)
    if not together:
        books.drain()
    books.deliver(event, event)
    books.drain()
    books.assert_billed(1)


def test_what_a_killed_ledger_had_read_comes_first(books):
    first, second = books.event(), books.event()
    books.deliver(first)
    from tasks import ledger

    ledger._ensure_group(books.redis)
    assert len(ledger._read(books.redis, ">")) == 1, "read, and then killed"
    books.deliver(second)
    books.drain()
    books.assert_billed(2)


def test_an_entry_deleted_from_the_stream_holds_nothing_up(books):
    books.deliver(books.event())
    from tasks import ledger

    ledger._ensure_group(books.redis)
    ((entry, _fields),) = ledger._read(books.redis, ">")
    books.redis.xdel("hyd:usage", entry)
    books.deliver(books.event())
    books.drain()
    books.assert_billed(1)


def test_more_events_than_a_batch_are_all_billed(books):
    books.deliver(*(books.event() for _ in range(700)))
    books.drain()
    books.assert_billed(700)


def test_what_is_no_event_is_put_aside_and_blocks_nothing(books):
    poison = [
        b"not json",
        b"[]",
        b"17",
        b"null",
        b'"text"',
        b"{}",
        b'{"attempt_id": []}',
        b'{"attempt_id": {}}',
        b"\xff",
    ]
    for number, junk in enumerate(poison):
        books.deliver(junk, books.event())
        books.drain()
        books.assert_billed(number + 1)
    with books.here.sessions() as session:
        rejected = session.scalars(select(RejectedUsage)).all()
    assert len(rejected) == len(poison)
    assert all(row.reason for row in rejected)


def test_an_event_that_cannot_be_billed_is_kept_and_its_reservation_given_back(books):
    books.sweep()
    attempt = books.open(price_id="prc_unknown")
    books.deliver({**attempt, "outcome": "ok", "ended_at_ms": now_ms()})
    books.drain()
    books.assert_billed(0)
    assert books.count(RejectedUsage) == 1


def test_the_first_token_after_a_hold_is_the_outcome_of_its_cold_start(books):
    with session_scope(books.here.sessions) as session:
        cold_start = ColdStart(
            id=new_id("cst"), model_id=books.model.id, cause="demand", plan={}, requested_at_ms=1000, ready_at_ms=1400
        )
        session.add(cold_start)
    waited = {"cold_start_id": cold_start.id, "held_ms": 300}
    books.deliver(
        books.event(**waited, first_token_at_ms=1700),
        books.event(**waited, first_token_at_ms=1600),
        books.event(cold_start_id=cold_start.id, held_ms=0, first_token_at_ms=1500),
    )
    books.drain()
    books.deliver(books.event(**waited, first_token_at_ms=1550))
    books.drain()
    with books.here.sessions() as session:
        assert session.get_one(ColdStart, cold_start.id).first_token_at_ms == 1600
        kinds = session.scalars(select(ColdStartEvent.kind)).all()
    assert list(kinds) == ["first_token"]


# --- gateways that died -----------------------------------------------------------------------------------------------


def test_a_dead_gateways_attempts_are_settled_from_their_last_checkpoint_once(books):
    gateway = FakeGateway(books.redis, "gw-1")
    gateway.beat(age_ms=9000)
    attempt = books.open()
    books.sweep()
    assert books.count(Usage) == 0, "silent for a while is not dead"
    gateway.beat(age_ms=10_001)
    books.sweep()
    books.sweep()
    assert books.balance == PAID_IN - USAGE_EVENT_COST_NUSD
    with books.here.sessions() as session:
        assert session.get_one(Usage, attempt["attempt_id"]).outcome == "gateway_lost"
    assert books.count(Usage) == 1
    assert books.redis.hgetall("hyd:attempts") == books.redis.hgetall("hyd:reserved") == {}


def test_a_gateway_that_was_only_slow_is_paid_for_the_end_of_its_attempt(books):
    FakeGateway(books.redis, "gw-1").beat(age_ms=10_001)
    attempt = books.open()
    books.sweep()
    final = books.event(attempt_id=attempt["attempt_id"], completion_tokens=99)
    for _ in range(2):
        books.deliver(final)
        books.drain()
    assert books.balance == PAID_IN - USAGE_EVENT_COST_NUSD - 89 * 80
    assert int(books.redis.hget("hyd:balance", books.tenant.id)) == books.balance
    assert books.count(Usage) == 1


def test_a_dead_gateways_attempt_that_delivered_nothing_costs_nothing(books):
    books.open(completion_tokens=0)
    books.sweep()
    assert books.balance == PAID_IN
    assert books.count(Usage) == 1
    assert books.redis.hgetall("hyd:reserved") == {}


def test_what_was_admitted_ahead_for_a_dead_gateway_is_closed_and_is_nobodys_usage(books):
    started, counted = now_ms() - 60_000, {"reserved_nusd": 700, "admitted_at_ms": now_ms() - 60_000}
    ahead = {"tenant_id": books.tenant.id, "gateway_id": "gw-1", "ahead": True, "started_at_ms": started, **counted}
    for name in ("att_1", "att_2"):
        record = {"attempt_id": name, "budgets": ["key_1:day:1"], **ahead}
        books.redis.hset("hyd:attempts", name, json.dumps(record))
        books.redis.hincrby("hyd:reserved", books.tenant.id, 700)
        books.redis.hincrby("hyd:budget:reserved", "key_1:day:1", 700)
    FakeGateway(books.redis, "gw-1").beat(age_ms=9000)
    books.sweep()
    assert books.redis.hlen("hyd:attempts") == 2, "silent for a while is not dead"
    FakeGateway(books.redis, "gw-1").beat(age_ms=10_001)
    books.sweep()
    for held in ("hyd:attempts", "hyd:reserved", "hyd:budget:reserved"):
        assert books.redis.hgetall(held) == {}
    assert books.count(Usage) == books.count(RejectedUsage) == 0
    assert books.balance == PAID_IN


def test_a_dead_gateways_attempt_that_cannot_be_billed_is_put_aside_once(books):
    books.open(price_id="prc_unknown")
    for _ in range(3):
        books.sweep()
    assert books.count(RejectedUsage) == 1
    assert books.redis.hgetall("hyd:attempts") == {}


def test_a_young_attempt_of_a_gateway_without_heartbeat_is_left_alone(books):
    attempt = books.open()
    attempt["started_at_ms"] = now_ms() - 5000
    books.redis.hset("hyd:attempts", attempt["attempt_id"], json.dumps(attempt))
    books.sweep()
    assert books.count(Usage) == 0


def test_an_attempt_whose_final_event_is_in_the_stream_is_left_to_it(books):
    attempt = books.open()
    books.redis.hset("hyd:attempts", attempt["attempt_id"], json.dumps({**attempt, "outcome": "ok"}))
    books.sweep()
    assert books.count(Usage) == 0
    books.deliver(books.event(attempt_id=attempt["attempt_id"]))
    books.drain()
    books.assert_billed(1)


# --- a Redis without memory -------------------------------------------------------------------------------------------


def test_a_wiped_redis_gets_snapshot_and_balances_back_to_the_nano_dollar(books):
    books.deliver(books.event())
    books.drain()
    books.sweep()
    before = json.loads(books.redis.get("hyd:snapshot"))
    books.redis.flushall()
    books.sweep()
    after = json.loads(books.redis.get("hyd:snapshot"))
    assert after["version"] > before["version"]
    assert {**after, "version": 0, "built_at_ms": 0} == {**before, "version": 0, "built_at_ms": 0}
    assert int(books.redis.hget("hyd:balance", books.tenant.id)) == books.balance == PAID_IN - USAGE_EVENT_COST_NUSD
    books.deliver(books.event())
    books.drain()
    books.assert_billed(2)


def test_just_after_redis_was_wiped_no_gateway_is_taken_for_dead(books):
    books.redis.flushall()
    books.open()
    books.sweep()
    assert books.count(Usage) == 0
    watched(books.redis, since_ms=now_ms() - 10_000)
    books.sweep()
    assert books.count(Usage) == 1


def test_after_an_outage_of_redis_no_gateway_is_taken_for_dead_before_it_could_speak(books):
    FakeGateway(books.redis, "gw-1").beat(age_ms=30_000)
    books.open()
    watched(books.redis, last_ms=now_ms() - 30_000)
    books.drain()
    books.sweep()
    assert books.count(Usage) == 0
    watched(books.redis, since_ms=now_ms() - 10_000)
    books.sweep()
    assert books.count(Usage) == 1


def test_two_ledgers_at_once_bill_every_attempt_once(books):
    import threading

    from tasks import ledger

    events = [books.event() for _ in range(120)]
    books.deliver(*events, *events)
    ledger._ensure_group(books.redis)
    failures = []

    def work() -> None:
        try:
            for _ in range(5):
                ledger.drain_stream(books.here)
        except Exception as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    books.drain()
    books.assert_billed(120)
    assert books.count(LedgerEntry) == 121


def test_usage_of_a_model_that_is_not_there_is_billed_all_the_same(books):
    books.deliver(books.event(model_id="mod_of_a_lost_database"))
    books.drain()
    books.assert_billed(1)
    assert books.count(ModelUse) == 0


def test_a_models_pauses_are_noted_with_its_usage_once(books):
    base = now_ms() - 600_000
    first = books.event(started_at_ms=base, ended_at_ms=base + 1_000)
    beside = books.event(started_at_ms=base + 500, ended_at_ms=base + 3_000)
    later = books.event(started_at_ms=base + 60_000, ended_at_ms=base + 61_000)
    for events in ([first, beside], [later], [later, first]):
        books.deliver(*events)
        books.drain()
    with books.here.sessions() as session:
        use = session.get_one(ModelUse, books.model.id)
        assert (use.busy_until_ms, use.pauses_ms) == (base + 61_000, [57_000])


@pytest.mark.parametrize(("mode", "told"), [("learned", True), ("fixed", False)])
def test_a_model_that_is_asked_for_by_the_clock_is_expected(books, mode, told):
    hour, base = 3_600_000, now_ms() - 40_000_000
    with session_scope(books.here.sessions) as session:
        session.get_one(Model, books.model.id).keep_alive_mode = mode
    books.deliver(*(books.event(started_at_ms=base + i * hour, ended_at_ms=base + i * hour + 900) for i in range(10)))
    books.drain()
    with books.here.sessions() as session:
        use = session.get_one(ModelUse, books.model.id)
        if told:
            assert base + 10 * hour - 60_000 < use.expected_from_ms < base + 10 * hour < use.expected_until_ms
        else:
            assert use.expected_from_ms is use.expected_until_ms is None
